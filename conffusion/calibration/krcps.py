"""Offsets of groups of pixels: a shape of the intervals that is fitted on the selection split, before calibration.

Pixels are grouped by position, through their miss rates, and each group's bounds are moved outwards by an offset of its
own. `calibrate` then scales the moved bounds as usual, on images that the fit has not seen; its guarantee does not
depend on how good the fit is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conffusion.calibration.scaling import get_scaling
from conffusion.calibration.ucb import check_level
from conffusion.core.arrays import ArrayLike, BoolArray, FloatArray, IntArray, as_numpy, check_same_shape
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import CalibrationError, ConfigError, DataError, ShapeError

_MAX_HALVINGS = 200


@dataclass(frozen=True, eq=False)
class PixelGroups:
    """Groups of pixel positions and the offset of each.

    Attributes:
        label: (C, H, W) group of each position, 0 to K - 1; -1 where no pixel was evaluated, which is never moved.
        offsets: (K,) float64, in units of the [0, 1] pixel range; positive widens, negative narrows.
    """

    label: IntArray
    offsets: FloatArray

    def apply(self, lower: ArrayLike, upper: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Move the bounds of each pixel by the offset of its group: [l - offset, u + offset], clamped to [0, 1].

        Bounds that would cross meet at their midpoint.

        Args:
            lower: (N, C, H, W) lower bounds in [0, 1]; NumPy array, torch tensor or zarr array (read whole).
            upper: Upper bounds, same shape.
        Returns:
            (lower, upper), float64 NumPy arrays. A target in [0, 1] at its critical offset is covered exactly.
        Raises:
            ShapeError: If the shapes differ, or differ from that of `label`.
        """
        shape = check_same_shape(lower=lower, upper=upper)
        if shape[1:] != self.label.shape:
            raise ShapeError(f"lower has shape {shape} but the groups are for images of shape {self.label.shape}")
        low, high = (as_numpy(array).astype(np.float64) for array in (lower, upper))
        shift = np.append(self.offsets, 0.0)[self.label]
        moved_low, moved_high = get_scaling("additive").apply(low, high, shift)
        crossed, middle = moved_high < moved_low, (low + high) / 2
        return np.where(crossed, middle, moved_low).clip(0.0, 1.0), np.where(crossed, middle, moved_high).clip(0.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"label": self.label.tolist(), "offsets": self.offsets.tolist()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "PixelGroups":
        """Inverse of `to_dict`."""
        return cls(np.asarray(record["label"], dtype=np.int64), np.asarray(record["offsets"], dtype=np.float64))


def fit_pixel_groups(images: LabelledBounds, *, n_groups: int, level: float) -> PixelGroups:
    """Group pixel positions by miss rate and choose offsets of the smallest mean interval length at a given risk.

    The risk is pooled: the share of all evaluated pixel values that are missed. Minimised is the exact length of the
    clamped intervals, length + price * misses for each group, with the price at which the risk is just `level`; offsets
    may be negative. Where one group is much harder than the others the shortest intervals give that group up: the risk
    is controlled over all groups together, not in each.

    Args:
        images: Bounds and truth, (N, C, H, W), of the selection split, in memory; targets outside [0, 1] count as
            missed at every offset.
        n_groups: Number of groups K, at least 1; there are fewer where miss rates tie.
        level: Risk to be left on the given data, in (0, 1).
    Returns:
        Groups and offsets. Positions without an evaluated pixel (around the holes of inpainting) get label -1.
    Raises:
        ConfigError: If n_groups or level is invalid.
        ShapeError: If the bounds are not (N, C, H, W).
        DataError: If no pixel is evaluated, or an evaluated value is NaN or infinite.
        CalibrationError: If no offsets reach the level.
    Source:
        The problem that Teneggi et al. 2023, "How to trust your diffusion model: a convex optimization approach to
        conformal risk control" (arXiv 2302.03791), section 4, relax.
    """
    check_level("level", level)
    if n_groups < 1:
        raise ConfigError(f"n_groups = {n_groups}: must be at least 1")
    label, groups = group_positions(images, n_groups)
    return PixelGroups(label, _fit_offsets(groups, level))


def group_positions(images: LabelledBounds, n_groups: int) -> tuple[IntArray, list["GroupValues"]]:
    """(C, H, W) group of each position by the miss rate of the bounds as they are, and the values of each group.

    Raises:
        ShapeError: If the bounds are not (N, C, H, W).
        DataError: If no pixel is evaluated, or an evaluated value is NaN or infinite.
    """
    values, chosen = _open(images)
    n_evaluated = chosen.sum(axis=0)
    n_missed = ((values.critical > 0.0) & chosen).sum(axis=0)
    with np.errstate(invalid="ignore"):
        label = quantile_groups(n_missed / n_evaluated, n_groups)
    return label, [_values_of_group(values, chosen, label == k) for k in range(int(label.max()) + 1)]


def quantile_groups(miss_rate: FloatArray, n_groups: int) -> IntArray:
    """Group of each value by the quantiles 1/K, .., (K-1)/K of all; a value equal to a quantile goes below it.

    Args:
        miss_rate: Any shape; NaN marks positions to leave out.
        n_groups: K, at least 1; equal quantiles count once, so that there may be fewer groups.
    Returns:
        int64, same shape: 0 (smallest rates) to at most K - 1, every group in use; -1 at NaN.
    Source:
        Teneggi et al. 2023 (arXiv 2302.03791), section 4; fixture stats/krcps_procedures.
    """
    known = ~np.isnan(miss_rate)
    edges = np.quantile(miss_rate[known], np.arange(1, n_groups) / n_groups)
    label = np.full(miss_rate.shape, -1, dtype=np.int64)
    bins = np.searchsorted(np.unique(edges), miss_rate[known], side="left")
    label[known] = np.unique(bins, return_inverse=True)[1].reshape(-1)
    return label


@dataclass(frozen=True)
class GroupValues:
    """Evaluated values of a group of positions: bounds, truth, critical additive offset, (n_values,) float64 each."""

    lower: FloatArray
    upper: FloatArray
    target: FloatArray
    critical: FloatArray


@dataclass(frozen=True)
class _Curve:
    """Choices of one group: increasing offsets, the total length of its intervals and how many values are missed."""

    offsets: FloatArray
    lengths: FloatArray
    missed: IntArray

    @classmethod
    def of(cls, values: GroupValues) -> "_Curve":
        """One choice per value of the critical offset, and one at which every interval has shrunk to a point."""
        shrunk = (values.lower - values.upper) / 2
        critical = np.sort(values.critical)
        finite = critical[critical < np.inf]
        offsets = np.unique(np.append(finite, shrunk.min()))
        hinges = [_hinge_sum(knots, offsets) for knots in (shrunk, 1.0 - values.upper, values.lower)]
        missed = len(critical) - np.searchsorted(critical, offsets, side="right")
        return cls(offsets, 2 * hinges[0] - hinges[1] - hinges[2], missed)

    def best(self, price: float, first: int, last: int) -> int:
        """Index in first..last of the smallest length + price * missed; the smaller offset where two are equal."""
        part = slice(first, last + 1)
        return first + int(np.argmin(self.lengths[part] + price * self.missed[part]))


def _hinge_sum(knots: FloatArray, points: FloatArray) -> FloatArray:
    """sum_j max(0, point - knot_j) for every one of the increasing points."""
    ordered = np.sort(knots)
    below = np.searchsorted(ordered, points, side="right")
    return np.asarray(points * below - np.concatenate([[0.0], np.cumsum(ordered)])[below])


def _fit_offsets(groups: Sequence[GroupValues], level: float) -> FloatArray:
    """Offsets (K,) of the shortest intervals with at most level * n_values misses, by a price on each miss."""
    budget = math.floor(level * sum(len(group.critical) for group in groups) + 1e-9)
    curves = [_Curve.of(group) for group in groups]
    dear = np.array([len(curve.offsets) - 1 for curve in curves])
    if _count_missed(curves, dear) > budget:
        raise CalibrationError(
            f"no offsets reach level = {level:g}: too many targets lie outside [0, 1]; correct them or raise the level"
        )
    cheap, dear = _bracket_price(curves, budget, dear)
    chosen = _spend_rest(curves, budget, cheap, dear)
    return np.array([curve.offsets[index] for curve, index in zip(curves, chosen, strict=True)])


def _bracket_price(curves: Sequence[_Curve], budget: int, dear: IntArray) -> tuple[IntArray, IntArray]:
    """(K,) best choices just below and just above the price of a miss at which the budget is kept.

    Best choices move up with the price, so every halving searches only between those of the two prices.
    """
    cheap = np.zeros(len(curves), dtype=np.int64)
    low, high = 1e-9, 2.0 * sum(len(curve.offsets) + curve.missed.max() for curve in curves)
    for _ in range(_MAX_HALVINGS):
        price = math.sqrt(low * high)
        if np.array_equal(cheap, dear) or not low < price < high:
            break
        ranges = zip(curves, cheap, dear, strict=True)
        middle = np.array([curve.best(price, int(first), int(last)) for curve, first, last in ranges])
        if _count_missed(curves, middle) <= budget:
            dear, high = middle, price
        else:
            cheap, low = middle, price
    return cheap, dear


def _spend_rest(curves: Sequence[_Curve], budget: int, cheap: IntArray, dear: IntArray) -> IntArray:
    """Choices between `cheap`, which miss too much, and `dear`, that leave few of the allowed misses unused."""
    chosen = dear.copy()
    for k, curve in enumerate(curves):
        allowed = budget - _count_missed(curves, chosen) + curve.missed[chosen[k]]
        fewest_first = curve.missed[cheap[k] : dear[k] + 1][::-1]
        chosen[k] = dear[k] + 1 - int(np.searchsorted(fewest_first, allowed, side="right"))
    return chosen


def _count_missed(curves: Sequence[_Curve], choices: IntArray) -> int:
    return sum(int(curve.missed[index]) for curve, index in zip(curves, choices, strict=True))


def _open(images: LabelledBounds) -> tuple[GroupValues, BoolArray]:
    """Bounds, truth and critical offsets as (N, C, H, W), and which pixels are evaluated."""
    if len(images.shape) != 4:
        raise ShapeError(f"target has shape {images.shape}: must be (N, C, H, W)")
    (block,) = images.in_memory().blocks(n_pixels=int(np.prod(images.shape)))
    chosen = block.evaluated
    if not chosen.any():
        raise DataError("no pixel is evaluated: the mask must be 1 somewhere")
    low, high, truth = (array.astype(np.float64) for array in (block.lower, block.upper, block.target))
    for name, array in (("lower", low), ("upper", high), ("target", truth)):
        if not np.isfinite(array[chosen]).all():
            raise DataError(f"{name} has evaluated values that are NaN or infinite: replace them or mask them out")
    critical = get_scaling("additive").critical(low, high, truth)
    critical[(truth < 0.0) | (truth > 1.0)] = np.inf  # sets are clamped to [0, 1]
    return GroupValues(low, high, truth, critical), chosen


def _values_of_group(arrays: GroupValues, chosen: BoolArray, positions: BoolArray) -> GroupValues:
    """Evaluated values at some (C, H, W) positions."""
    inside = chosen[:, positions]
    parts = (arrays.lower, arrays.upper, arrays.target, arrays.critical)
    lower, upper, target, critical = (part[:, positions][inside] for part in parts)
    return GroupValues(lower, upper, target, critical)
