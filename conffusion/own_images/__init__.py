"""People's own images: predict, calibrate on pairs, evaluate. File by file, with bounded memory."""
