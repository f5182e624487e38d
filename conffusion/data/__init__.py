"""Datasets, splits and image reading."""
