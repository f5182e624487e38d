"""Bounds of many images from one forward pass each."""
