"""Statistically guaranteed per-pixel confidence intervals for diffusion-based image restoration."""

__version__ = "0.1.0"
