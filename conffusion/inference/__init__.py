"""Calibrated models on images: predictor, tiling, model file, folders of images."""

# Files of a folder of predictions: of each image, and of all together.
RECORD, TABLE, SUMMARY = "interval.json", "predictions.csv", "summary.json"
