"""Interval bounds from sampled variants: per-pixel quantiles, and sorting of crossed bounds. No torch import."""

from typing import Any

import numpy as np

from conffusion.arrays import ArrayLike, FloatArray, as_numpy, check_same_shape
from conffusion.errors import ConfigError, DataError, ShapeError

_BLOCK_PIXELS = 1024  # transposed and sorted at a time: rows of J values that stay in the processor's cache


def sampled_bounds(variants: ArrayLike, lower_quantile: float, upper_quantile: float) -> tuple[Any, Any]:
    """Per-pixel quantiles of J variants, with linear interpolation between order statistics.

    Quantiles of J draws cover less than their nominal share: for J exact posterior draws, [q, 1 - q] covers
    (1 - 2 q)(J - 1) / (J + 1).

    Args:
        variants: (J, ...) variants of an image along the first axis, J >= 2; NumPy array or torch tensor.
        lower_quantile: In [0, 1], below `upper_quantile`; 0.05 in the paper.
        upper_quantile: In [0, 1]; 0.95 in the paper.
    Returns:
        (lower, upper), each of shape variants.shape[1:], in the variants' floating type (float32 for integers);
        torch tensors on the same device for a torch tensor, else NumPy arrays. lower <= upper.
    Raises:
        ShapeError: If there are fewer than two variants.
        ConfigError: If the quantiles are out of order or outside [0, 1].
        DataError: If a variant holds NaN.
    Source:
        Horwitz and Hoshen 2022, "Conffusion" (arXiv 2211.09795), section 3, sampled bounds; fixture
        stats/sampled_quantiles.
    """
    if not 0.0 <= lower_quantile < upper_quantile <= 1.0:
        raise ConfigError(
            f"quantiles = ({lower_quantile}, {upper_quantile}): must be in order and lie in [0, 1], lower below upper"
        )
    if len(variants.shape) < 1 or variants.shape[0] < 2:
        raise ShapeError(f"variants has shape {tuple(variants.shape)}: at least 2 along the first axis are needed")
    values = as_numpy(variants)
    kind = values.dtype if np.issubdtype(values.dtype, np.floating) else np.dtype(np.float32)
    quantiles = _quantiles(values.reshape(len(values), -1), (lower_quantile, upper_quantile)).astype(kind)
    lower, upper = (row.reshape(values.shape[1:]) for row in quantiles)
    if hasattr(variants, "new_tensor"):
        return variants.new_tensor(lower), variants.new_tensor(upper)
    return lower, upper


def sort_bounds(lower: ArrayLike, upper: ArrayLike) -> tuple[Any, Any, int]:
    """Swap crossed bounds so that lower <= upper everywhere.

    Args:
        lower: Lower bounds, any shape; NumPy array or torch tensor.
        upper: Upper bounds, same shape and kind.
    Returns:
        (lower, upper, n_crossed): sorted copies, and the number of pixels where upper < lower.
    Raises:
        ShapeError: If the shapes differ.
    """
    check_same_shape(lower=lower, upper=upper)
    n_crossed = int((upper < lower).sum())
    if hasattr(lower, "detach"):
        return lower.minimum(upper), lower.maximum(upper), n_crossed
    return np.minimum(lower, upper), np.maximum(lower, upper), n_crossed


def _quantiles(values: FloatArray, levels: tuple[float, ...]) -> FloatArray:
    """(n_levels, n_pixels) float64 quantiles of (J, n_pixels) values along the first axis."""
    n_draws, n_pixels = values.shape
    ranks = np.array(levels) * (n_draws - 1)
    below = np.floor(ranks).astype(np.intp)
    above = np.minimum(below + 1, n_draws - 1)
    result = np.empty((len(levels), n_pixels))
    for start in range(0, n_pixels, _BLOCK_PIXELS):
        rows = np.array(values[:, start : start + _BLOCK_PIXELS].T, order="C")
        rows.sort(axis=1)
        if np.isnan(rows[:, -1]).any():
            raise DataError("variants hold NaN: sample them again or leave them out")
        low, high = rows[:, below].astype(np.float64), rows[:, above].astype(np.float64)
        result[:, start : start + _BLOCK_PIXELS] = (low + (ranks - below) * (high - low)).T
    return result
