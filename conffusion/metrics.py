"""Coverage and size of intervals: risk, interval size, size-stratified risk. NumPy only; zarr is streamed.

A pixel is missed when its truth lies outside [lower, upper]; only pixels where the mask is 1 count. The size is
upper - lower in units of the [0, 1] pixel range, negative where crossed. Bounds are taken as they come: clamp them to
[0, 1] first, as `Calibration.apply` does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import ArrayLike, BoolArray, FloatArray
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import ConfigError, DataError

Stratify: TypeAlias = Literal["pixel", "image", "image_channel"]
IntArray: TypeAlias = npt.NDArray[np.int64]
_QUARTERS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Metrics:
    """How a set of intervals does on a set of images.

    Attributes:
        risk: Share of the evaluated pixels that are missed, in [0, 1]; otherwise than under "pixel" the mean of the
            units' shares (the same unless masks differ in size).
        interval_size_mean: Mean size over the evaluated pixels; otherwise than under "pixel" the mean of the units'
            mean sizes.
        interval_size_median: Median size over all evaluated pixels under "pixel", else the lower median of the units'
            mean sizes.
        stratified_risk: (4,) risk by quarter of size, narrowest first.
    """

    risk: float
    interval_size_mean: float
    interval_size_median: float
    stratified_risk: FloatArray


def evaluate(
    lower: ArrayLike,
    upper: ArrayLike,
    target: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    stratify: Stratify = "pixel",
) -> Metrics:
    """Risk, interval size and size-stratified risk of intervals.

    Strata are left-open: values equal to an edge go to the quarter below it.
    - "pixel": quarters of all evaluated pixels by their size. Ties stay together, so quarters can be uneven, and one
      that ties leave empty has risk NaN.
    - "image" and "image_channel" (the official units): units by their mean size, with the edges 0, q25, q50, q75; a
      unit of size <= 0 is in none; per quarter the mean of the units' risks, 0 where empty. Units without an evaluated
      pixel are left out.

    Args:
        lower: (N, C, H, W) lower bounds; NumPy array, torch tensor or zarr array (read in blocks, with bounded memory).
        upper: Upper bounds, same shape.
        target: Truth, same shape, in [0, 1].
        mask: Same shape, or (N, 1, H, W); pixels where it is 1 are evaluated. None evaluates all.
        stratify: "pixel", "image" or "image_channel".
    Returns:
        The metrics.
    Raises:
        ShapeError: If shapes do not match.
        DataError: If a value is NaN, no pixel is evaluated, or the mask holds other values than 0 and 1.
        ConfigError: If stratify is unknown.
    Source:
        Sizes and strata as in Angelopoulos et al. 2022, "Image-to-image regression with distribution-free
        uncertainty quantification" (arXiv 2202.05265); official units: docs/official_code.md, section 9,
        and fixtures stats/calibrate_*.
    """
    if stratify not in ("pixel", "image", "image_channel"):
        raise ConfigError(f"stratify = {stratify!r}: must be 'pixel', 'image' or 'image_channel'")
    images = LabelledBounds(lower, upper, target, mask)
    if stratify == "pixel":
        return _evaluate_pixels(images)
    return _evaluate_units(_unit_sums(images, per_channel=stratify == "image_channel"))


def image_losses(
    lower: ArrayLike, upper: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray]:
    """Risk and mean interval size of each image, for instance to bootstrap over images.

    Args:
        lower: (N, C, H, W) lower bounds; NumPy array, torch tensor or zarr array.
        upper: Upper bounds, same shape.
        target: Truth, same shape, in [0, 1].
        mask: Same shape, or (N, 1, H, W); pixels where it is 1 are evaluated.
    Returns:
        (risk, size): (N,) float64 each; NaN for an image without evaluated pixels.
    Raises:
        ShapeError: If shapes do not match.
        DataError: If a value is NaN, no pixel is evaluated, or the mask holds other values than 0 and 1.
    """
    sums = _unit_sums(LabelledBounds(lower, upper, target, mask), per_channel=False)
    with np.errstate(invalid="ignore"):
        return sums.misses / sums.pixels, sums.sizes / sums.pixels


def size_quartile_edges(images: LabelledBounds) -> FloatArray:
    """(3,) quartiles q25, q50, q75 of the sizes of all evaluated pixels, linearly interpolated.

    Raises:
        DataError: As `evaluate`.
    """
    return size_quantiles(images, _QUARTERS)


def stratified_counts(images: LabelledBounds, edges: FloatArray) -> tuple[IntArray, IntArray]:
    """Missed and evaluated pixels of each image by quarter of pixel size, with given edges.

    Args:
        images: Intervals and truth.
        edges: (3,) increasing sizes; a size equal to an edge belongs to the quarter below it.
    Returns:
        (misses, pixels): (N, 4) int64 each. The column sums give the stratified risk of `evaluate`.
    Raises:
        DataError: As `evaluate`.
    """
    misses, pixels = (np.zeros((images.n_images, 4), dtype=np.int64) for _ in range(2))
    for block in measured_blocks(images):
        stratum = sum((block.sizes > edge).astype(np.int8) for edge in edges)
        for quarter in range(4):
            inside = block.chosen & (stratum == quarter)
            pixels[block.rows, quarter] = inside.sum(axis=(1, 2))
            misses[block.rows, quarter] = (inside & block.missed).sum(axis=(1, 2))
    return misses, pixels


@dataclass(frozen=True)
class MeasuredBlock:
    """Consecutive images, (n_rows, n_channels, n_pixels) each: sizes, misses and which pixels are evaluated."""

    rows: slice
    sizes: FloatArray
    missed: BoolArray
    chosen: BoolArray


def measured_blocks(images: LabelledBounds) -> Iterator[MeasuredBlock]:
    """Sizes and misses, some images at a time.

    Raises:
        DataError: If an evaluated value is NaN, or the mask holds other values than 0 and 1.
    """
    for block in images.blocks():
        shape = (block.n_rows, images.shape[1] if len(images.shape) > 1 else 1, -1)
        chosen, target = block.evaluated.reshape(shape), block.target.reshape(shape)
        sizes = (block.upper - block.lower).astype(np.float32).reshape(shape)
        if np.isnan(np.where(chosen, sizes + target, 0.0)).any():
            rows = block.rows
            raise DataError(f"lower, upper or target holds NaN in images {rows.start} to {rows.stop - 1}")
        missed = ~((block.lower <= block.target) & (block.target <= block.upper)).reshape(shape)
        yield MeasuredBlock(block.rows, sizes, missed, chosen)


@dataclass(frozen=True)
class _UnitSums:
    """Sums over the evaluated pixels of each unit, (n_units,) float64 each."""

    misses: FloatArray
    sizes: FloatArray
    pixels: FloatArray


def _unit_sums(images: LabelledBounds, *, per_channel: bool) -> _UnitSums:
    """Sums per image, or per (image, channel) pair."""
    axis = 2 if per_channel else (1, 2)
    parts = []
    for block in measured_blocks(images):
        misses = (block.missed & block.chosen).sum(axis=axis)
        sizes = np.where(block.chosen, block.sizes, 0.0).sum(axis=axis, dtype=np.float64)
        totals = (misses, sizes, block.chosen.sum(axis=axis))
        parts.append([np.asarray(total, dtype=np.float64).reshape(-1) for total in totals])
    sums = _UnitSums(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    if not sums.pixels.any():
        raise DataError("the mask selects no pixel: it must be 1 where pixels are evaluated")
    return sums


def _sizes(images: LabelledBounds) -> Iterator[FloatArray]:
    """Sizes of the evaluated pixels, float32, block by block."""
    for block in measured_blocks(images):
        yield block.sizes[block.chosen]


def _evaluate_units(sums: _UnitSums) -> Metrics:
    filled = sums.pixels > 0
    sizes, risks = (total[filled] / sums.pixels[filled] for total in (sums.sizes, sums.misses))
    edges = np.concatenate([[0.0], np.quantile(sizes, _QUARTERS)])
    stratum = np.searchsorted(edges, sizes, side="left")  # 0: size <= 0, in no quarter
    totals, counts = (np.bincount(stratum, weights, minlength=5)[1:] for weights in (risks, np.ones_like(risks)))
    median = np.sort(sizes)[(len(sizes) - 1) // 2]
    return Metrics(float(risks.mean()), float(sizes.mean()), float(median), totals / np.maximum(counts, 1))


def _evaluate_pixels(images: LabelledBounds) -> Metrics:
    sums = _unit_sums(images, per_channel=False)
    edges = size_quantiles(images, _QUARTERS)
    misses, pixels = (table.sum(axis=0) for table in stratified_counts(images, edges))
    stratified = np.divide(misses, pixels, out=np.full(4, np.nan), where=pixels > 0)
    n_pixels = float(sums.pixels.sum())
    risk, size = float(sums.misses.sum()) / n_pixels, float(sums.sizes.sum()) / n_pixels
    return Metrics(risk, size, float(edges[1]), stratified)


def size_quantiles(images: LabelledBounds, levels: tuple[float, ...]) -> FloatArray:
    """Linearly interpolated quantiles of the sizes of all evaluated pixels, exact in float32, by radix selection."""
    high_bits = sum(np.bincount(_keys(sizes) >> 16, minlength=1 << 16) for sizes in _sizes(images))
    n_pixels = int(np.sum(high_bits))
    if n_pixels == 0:
        raise DataError("the mask selects no pixel: it must be 1 where pixels are evaluated")
    ranks = np.array(levels) * (n_pixels - 1)
    wanted = np.unique(np.concatenate([np.floor(ranks), np.ceil(ranks)])).astype(np.int64)
    found = _order_statistics(images, np.cumsum(high_bits), wanted)
    low, high = (found[np.searchsorted(wanted, rounded(ranks))] for rounded in (np.floor, np.ceil))
    return np.asarray(low + (ranks - np.floor(ranks)) * (high - low))


def _order_statistics(images: LabelledBounds, cumulative: IntArray, ranks: IntArray) -> FloatArray:
    """Sizes of the given ranks (0 = smallest), from the cumulative counts of the upper 16 bits of their keys."""
    prefixes = np.searchsorted(cumulative, ranks, side="right")
    low_bits = {int(prefix): np.zeros(1 << 16, dtype=np.int64) for prefix in prefixes}
    for sizes in _sizes(images):
        keys = _keys(sizes)
        upper = keys >> 16
        for prefix, counts in low_bits.items():
            counts += np.bincount(keys[upper == prefix] & 0xFFFF, minlength=1 << 16)
    found = []
    for rank, prefix in zip(ranks, prefixes, strict=True):
        counts = low_bits[int(prefix)].cumsum()
        before = cumulative[prefix] - counts[-1]
        found.append((int(prefix) << 16) + int(np.searchsorted(counts, rank - before, side="right")))
    return _from_keys(np.array(found, dtype=np.int64))


def _keys(sizes: FloatArray) -> IntArray:
    """Integers 0 .. 2^32 - 1 in the order of the float32 sizes."""
    bits = sizes.view(np.int32)
    return (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64) + (1 << 31)


def _from_keys(keys: IntArray) -> FloatArray:
    """Inverse of `_keys`, as float64."""
    bits = (keys - (1 << 31)).astype(np.int32)
    return (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).view(np.float32).astype(np.float64)
