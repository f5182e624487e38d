"""Tables, claims, figures and the report, made from result files only."""
