"""Interval bounds from sampled variants: per-pixel quantiles, and sorting of crossed bounds. No torch import."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import ArrayLike, FloatArray, IntArray, as_numpy, check_same_shape
from conffusion.errors import ConfigError, DataError, ShapeError

_BLOCK_BYTES = 1 << 14  # of one variant, handled at a time: the values kept stay in the processor's cache
_MOST_KEPT = 64  # order statistics that are cheaper to keep than a full sort


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
    lower, upper = sampled_quantiles(values, (lower_quantile, upper_quantile)).astype(kind)
    if hasattr(variants, "new_tensor"):
        return variants.new_tensor(lower), variants.new_tensor(upper)
    return lower, upper


def sampled_quantiles(variants: npt.NDArray[Any], levels: Sequence[float]) -> FloatArray:
    """Quantiles along the first axis, with linear interpolation between order statistics.

    Only the order statistics that are asked for are found: near the ends, where bounds lie, by running minima and
    maxima over the variants in their own type, which is many times faster than sorting.

    Args:
        variants: (J, ...) integers or floats.
        levels: In [0, 1].
    Returns:
        (n_levels, ...) float64.
    Raises:
        DataError: If a value is NaN.
    """
    values = variants.reshape(len(variants), -1)
    ranks = np.asarray(levels) * (len(values) - 1)
    below = np.floor(ranks).astype(np.intp)
    needed = np.unique(np.concatenate([below, np.minimum(below + 1, len(values) - 1)]))
    result = np.empty((len(ranks), values.shape[1]))
    n_pixels = max(1, _BLOCK_BYTES // values.itemsize)
    for start in range(0, values.shape[1], n_pixels):
        block = values[:, start : start + n_pixels]
        block = block.astype(np.float32) if block.dtype == np.float16 else block  # has no fast minimum
        ordered = _order_statistics(block, needed).astype(np.float64)
        if np.isnan(ordered).any():
            raise DataError("variants hold NaN: sample them again or leave them out")
        low = ordered[np.searchsorted(needed, below)]
        high = ordered[np.searchsorted(needed, np.minimum(below + 1, len(values) - 1))]
        result[:, start : start + n_pixels] = low + (ranks - below)[:, None] * (high - low)
    return result.reshape(len(ranks), *variants.shape[1:])


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


def _order_statistics(values: npt.NDArray[Any], ranks: IntArray) -> npt.NDArray[Any]:
    """Rows of the sorted (J, n_pixels) values, counted from 0; NaN in a pixel shows in its first or last rows."""
    n_draws = len(values)
    n_low = int(ranks[ranks < n_draws / 2].max(initial=-1)) + 1
    n_high = n_draws - int(ranks[ranks >= n_draws / 2].min(initial=n_draws))
    if n_low + n_high > _MOST_KEPT:
        ordered = np.sort(values, axis=0)
        return np.where(np.isnan(ordered[-1]), np.nan, ordered[ranks])
    smallest = _extremes(values, n_low, np.minimum, np.maximum)
    largest = _extremes(values, n_high, np.maximum, np.minimum)
    return np.stack([smallest[rank] if rank < n_draws / 2 else largest[n_draws - 1 - rank] for rank in ranks])


def _extremes(
    values: npt.NDArray[Any], n_kept: int, keep: Callable[..., Any], push: Callable[..., Any]
) -> npt.NDArray[Any]:
    """The `n_kept` most extreme values of each pixel, most extreme first: (n_kept, n_pixels), by insertion."""
    kept = np.empty((n_kept, values.shape[1]), values.dtype)
    spare = np.empty((2, values.shape[1]), values.dtype)
    for n_seen, value in enumerate(values):
        moving, free = value, 0
        for place in kept[:n_seen]:
            push(place, moving, out=spare[free])
            keep(place, moving, out=place)
            moving, free = spare[free], 1 - free
        if n_seen < n_kept:
            kept[n_seen] = moving
    return kept
