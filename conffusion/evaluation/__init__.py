"""What intervals are worth: drift, diagnostics, scores of variants, validity of guarantees."""
