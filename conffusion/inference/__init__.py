"""Calibrated models on images: predictor, tiling, model file, folders of images."""
