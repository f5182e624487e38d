"""The compared systems and protocols as data, and the one-pass predictor that the trained ones share."""
