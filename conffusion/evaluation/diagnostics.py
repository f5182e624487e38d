"""Where coverage comes from: risk of intervals by size, by position and by group of images, and along the scale.

The first three functions take calibrated intervals, `risk_curve` bounds before calibration. NumPy and SciPy only; zarr
is streamed. What they return describes a data set: the guarantee of the risk is
that of `conffusion.calibration.calibrate`, over all pixels and images, and not for a bin, a position or a group.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from conffusion.calibration.families import get_family
from conffusion.calibration.procedure import CalibrationOptions
from conffusion.calibration.risk_bounds import Level, get_bound
from conffusion.calibration.ucb import check_level
from conffusion.calibration.units import in_random_order, unit_means
from conffusion.core.arrays import FloatArray, IntArray, as_numpy
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import ConfigError, DataError, ShapeError
from conffusion.evaluation.validity import loss_curves
from conffusion.metrics import MeasuredBlock, image_losses, measured_blocks, size_quantiles


@dataclass(frozen=True)
class SizeReliability:
    """Risk of pixels by the size of their intervals, narrowest bin first.

    Attributes:
        edges: (n_bins - 1,) sizes between the bins, in units of the [0, 1] pixel range.
        risk: (n_bins,) share of each bin's pixels that are missed; NaN for a bin that ties leave empty.
        n_pixels: (n_bins,) int64 evaluated pixels in each bin.
        size_mean: (n_bins,) mean size in each bin; NaN where empty.
    """

    edges: FloatArray
    risk: FloatArray
    n_pixels: IntArray
    size_mean: FloatArray


@dataclass(frozen=True)
class PositionRisk:
    """Risk over a grid of image positions, row 0 at the top and column 0 at the left.

    Attributes:
        risk: (n_rows, n_columns) share of the cell's pixels, over all images and channels, that are missed; NaN where
            no pixel is evaluated.
        n_pixels: (n_rows, n_columns) int64 evaluated pixels in each cell.
    """

    risk: FloatArray
    n_pixels: IntArray


@dataclass(frozen=True)
class GroupRisk:
    """Risk of one group of images.

    Attributes:
        group: The label.
        risk: Mean over the group's images of their risk; NaN if none has an evaluated pixel.
        risk_low: Lower end of the interval of the group's risk; NaN with fewer than two images.
        risk_high: Upper end.
        size_mean: Mean over the group's images of their mean interval size, in units of the [0, 1] pixel range.
        n_images: Images of the group with at least one evaluated pixel.
    """

    group: Any
    risk: float
    risk_low: float
    risk_high: float
    size_mean: float
    n_images: int


@dataclass(frozen=True)
class RiskCurve:
    """Risk, its upper confidence bound and interval size as functions of the scale lambda.

    Attributes:
        lambdas: (P,) increasing scales.
        risk: (P,) mean loss of the units (images, or groups where labels are given); falls along the curve.
        risk_ucb: (P,) upper confidence bound of the risk at each lambda; it holds with probability 1 - delta at any
            one lambda, not at all of them at once.
        size_mean: (P,) mean over the units of their mean interval size, clamped to [0, 1].
        n_units: Images, or groups: the n given to the bound.
    """

    lambdas: FloatArray
    risk: FloatArray
    risk_ucb: FloatArray
    size_mean: FloatArray
    n_units: int


def reliability_by_size(images: LabelledBounds, *, n_bins: int = 4) -> SizeReliability:
    """Risk, number and mean size of pixels in bins of interval size that hold equally many pixels.

    Bins are left-open, so ties stay together and bins can be uneven; with 4 bins the risk is the size-stratified risk
    of `conffusion.metrics.evaluate`. An honest predictor has about the same risk in every bin.

    Args:
        images: Calibrated intervals and truth, (N, C, H, W).
        n_bins: Number of bins, at least 2.
    Raises:
        ConfigError: If n_bins is below 2.
        ShapeError: If shapes do not match.
        DataError: If a value is NaN or no pixel is evaluated.
    Source:
        Angelopoulos et al. 2022 (arXiv 2202.05265), size-stratified risk.
    """
    _check_at_least(2, n_bins=n_bins)
    edges = size_quantiles(images, tuple(np.arange(1, n_bins) / n_bins))
    blocks = measured_blocks(images)
    pixels, misses, sizes = sum((_bin_sums(block, edges) for block in blocks), np.zeros((3, n_bins)))
    return SizeReliability(edges, _ratio(misses, pixels), pixels.astype(np.int64), _ratio(sizes, pixels))


def risk_by_position(images: LabelledBounds, *, n_rows: int = 8, n_columns: int = 8) -> PositionRisk:
    """Risk over a grid of image positions, pooled over images and channels.

    Args:
        images: Calibrated intervals and truth, (N, C, H, W).
        n_rows: Cells from top to bottom, at least 1; cells beyond the image's height stay empty.
        n_columns: Cells from left to right, at least 1.
    Raises:
        ConfigError: If n_rows or n_columns is below 1.
        ShapeError: If shapes do not match or the arrays are not (N, C, H, W).
        DataError: If a value is NaN or no pixel is evaluated.
    """
    _check_at_least(1, n_rows=n_rows, n_columns=n_columns)
    if len(images.shape) != 4:
        raise ShapeError(f"target has shape {images.shape}: positions need images of shape (N, C, H, W)")
    height, width = images.shape[2:]
    pixels, misses = sum((_position_sums(block) for block in measured_blocks(images)), np.zeros((2, height * width)))
    if not pixels.any():
        raise DataError("the mask selects no pixel: it must be 1 where pixels are evaluated")
    cell = _cell_of(height, n_rows)[:, None] * n_columns + _cell_of(width, n_columns)
    pixels, misses = (
        np.bincount(cell.reshape(-1), total, minlength=n_rows * n_columns).reshape(n_rows, n_columns)
        for total in (pixels, misses)
    )
    return PositionRisk(_ratio(misses, pixels), pixels.astype(np.int64))


def risk_by_group(images: LabelledBounds, *, delta: float = 0.1) -> list[GroupRisk]:
    """Risk, its interval and mean interval size of each group of images.

    The interval is Student's, mean -+ t s / sqrt(n) over the group's images, clipped to [0, 1]. It takes images as
    independent and their mean risk as nearly normal: a guide for the eye, without a finite-sample guarantee. Images
    of equal risk (for instance all 0) shrink it to a point.

    Args:
        images: Calibrated intervals and truth, with groups. Images without an evaluated pixel are left out.
        delta: Share of intervals that may miss the group's risk, in (0, 1); 0.1 gives 90 % intervals.
    Returns:
        One entry for each label, sorted by label.
    Raises:
        ConfigError: If delta is not in (0, 1), or there are no groups.
        DataError: If a value is NaN or no pixel is evaluated.
    """
    check_level("delta", delta)
    if images.groups is None:
        raise ConfigError("groups is missing: one label for each image is needed")
    labels, label_of = np.unique(as_numpy(images.groups), return_inverse=True)
    risks, sizes = image_losses(images.lower, images.upper, images.target, images.mask)
    used = ~np.isnan(risks)
    members = [used & (label_of == index) for index in range(len(labels))]
    return [
        _group_risk(label, risks[inside], sizes[inside], delta)
        for label, inside in zip(labels.tolist(), members, strict=True)
    ]


def risk_curve(images: LabelledBounds, options: CalibrationOptions, *, n_points: int = 41) -> RiskCurve:
    """What a larger or smaller scale would cost: risk, its upper confidence bound and interval size along lambda.

    The scales are points of a fine grid, evenly spread in risk between 3 alpha and alpha / 5 as far as the data
    reach; ties make them fewer. `conffusion.calibration.calibrate` finds the exact lambda_hat.

    Args:
        images: Bounds before calibration, and truth; with groups the units are groups, with the mean loss of their
            images.
        options: As for the calibration; unit and grid are not looked at.
        n_points: Number of scales, at most; at least 2.
    Raises:
        ConfigError: If n_points is invalid.
        DataError: If evaluated values are NaN or infinite, an image has no evaluated pixel, or no lambda covers any.
    Source:
        Bates et al. 2021 (arXiv 2101.02703), section 2.
    """
    _check_at_least(2, n_points=n_points)
    bound, curves = get_bound(options.bound_name), loss_curves(images, get_family(options.scaling))
    risks = unit_means(curves.losses.astype(np.float64), curves.groups).mean(axis=0)  # falls along the grid
    wanted = np.linspace(3 * options.alpha, options.alpha / 5, n_points)
    at = np.unique(np.clip(np.searchsorted(-risks, -wanted), 0, len(risks) - 1))
    losses, sizes = (
        unit_means(values[:, at].astype(np.float64), curves.groups) for values in (curves.losses, curves.sizes)
    )
    if options.order_seed is not None:
        losses = in_random_order(losses, options.order_seed)
    level = Level(options.alpha, options.delta, len(losses))
    bounds = np.array([bound.value(column, level) for column in losses.T])
    return RiskCurve(curves.lambdas[at], losses.mean(axis=0), bounds, sizes.mean(axis=0), level.n)


def _bin_sums(block: MeasuredBlock, edges: FloatArray) -> FloatArray:
    """(3, n_bins) evaluated pixels, missed pixels and summed sizes of a block; edges belong to the bin below."""
    sizes, missed = block.sizes[block.chosen], block.missed[block.chosen]
    bins = np.searchsorted(edges, sizes, side="left")
    columns = (np.ones(len(sizes)), missed, sizes)
    return np.stack([np.bincount(bins, column, minlength=len(edges) + 1) for column in columns])


def _position_sums(block: MeasuredBlock) -> FloatArray:
    """(2, H * W) evaluated and missed pixels of a block at each position."""
    return np.stack([flags.sum(axis=(0, 1)) for flags in (block.chosen, block.missed & block.chosen)])


def _cell_of(n_positions: int, n_cells: int) -> IntArray:
    """(n_positions,) cell of each row or column of pixels."""
    return np.arange(n_positions) * n_cells // n_positions


def _group_risk(label: Any, risks: FloatArray, sizes: FloatArray, delta: float) -> GroupRisk:
    if not len(risks):
        return GroupRisk(label, math.nan, math.nan, math.nan, math.nan, 0)
    low, high = _t_interval(risks, delta)
    return GroupRisk(label, float(risks.mean()), low, high, float(sizes.mean()), len(risks))


def _t_interval(risks: FloatArray, delta: float) -> tuple[float, float]:
    """Student's two-sided interval of the mean, clipped to [0, 1]; NaN for fewer than two values."""
    n_images = len(risks)
    if n_images < 2:
        return math.nan, math.nan
    mean, error = float(risks.mean()), float(risks.std(ddof=1)) / math.sqrt(n_images)
    reach = float(special.stdtrit(n_images - 1, 1.0 - delta / 2)) * error
    return max(0.0, mean - reach), min(1.0, mean + reach)


def _ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> FloatArray:
    """Quotient; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0)


def _check_at_least(smallest: int, **counts: int) -> None:
    for name, count in counts.items():
        if count < smallest:
            raise ConfigError(f"{name} = {count}: must be at least {smallest}")
