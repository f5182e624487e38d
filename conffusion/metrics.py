"""Coverage and size of intervals: risk, interval size, size-stratified risk. NumPy only; zarr is streamed.

A pixel is missed when its truth lies outside [lower, upper]; only pixels where the mask is 1 count. The size is
upper - lower in units of the [0, 1] pixel range, negative where crossed. Bounds are taken as they come: clamp them to
[0, 1] first, as `Calibration.apply` does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import ArrayLike, BoolArray, FloatArray, as_numpy, check_same_shape, is_zarr, iterate_blocks
from conffusion.errors import ConfigError, DataError, ShapeError

Stratify: TypeAlias = Literal["pixel", "image", "image_channel"]
IntArray: TypeAlias = npt.NDArray[np.int64]
_BLOCK_PIXELS = 1 << 18
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
        DataError: If a value is NaN or no pixel is evaluated.
        ConfigError: If stratify is unknown.
    Source:
        Sizes and strata as in Angelopoulos et al. 2022, "Image-to-image regression with distribution-free
        uncertainty quantification" (arXiv 2202.05265); official units: facts.md section 9, fixtures stats/calibrate_*.
    """
    if stratify not in ("pixel", "image", "image_channel"):
        raise ConfigError(f"stratify = {stratify!r}: must be 'pixel', 'image' or 'image_channel'")
    data = open_intervals(lower, upper, target, mask)
    if stratify == "pixel":
        return _evaluate_pixels(data)
    return _evaluate_units(data.unit_sums(per_channel=stratify == "image_channel"))


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
        DataError: If a value is NaN or no pixel is evaluated.
    """
    sums = open_intervals(lower, upper, target, mask).unit_sums(per_channel=False)
    with np.errstate(invalid="ignore"):
        return sums.misses / sums.pixels, sums.sizes / sums.pixels


def size_quartile_edges(lower: ArrayLike, upper: ArrayLike, mask: ArrayLike | None = None) -> FloatArray:
    """(3,) quartiles q25, q50, q75 of the sizes of all evaluated pixels, linearly interpolated.

    Args:
        lower: (N, C, H, W) lower bounds; NumPy array, torch tensor or zarr array.
        upper: Upper bounds, same shape.
        mask: Same shape, or (N, 1, H, W); pixels where it is 1 are evaluated.
    Raises:
        ShapeError: If shapes do not match.
        DataError: If a bound is NaN or no pixel is evaluated.
    """
    return size_quantiles(open_intervals(lower, upper, lower, mask), _QUARTERS)


def stratified_counts(
    lower: ArrayLike, upper: ArrayLike, target: ArrayLike, mask: ArrayLike | None, edges: FloatArray
) -> tuple[IntArray, IntArray]:
    """Missed and evaluated pixels of each image by quarter of pixel size, with given edges.

    Args:
        lower: (N, C, H, W) lower bounds; NumPy array, torch tensor or zarr array.
        upper: Upper bounds, same shape.
        target: Truth, same shape, in [0, 1].
        mask: Same shape, or (N, 1, H, W); pixels where it is 1 are evaluated.
        edges: (3,) increasing sizes; a size equal to an edge belongs to the quarter below it.
    Returns:
        (misses, pixels): (N, 4) int64 each. The column sums give the stratified risk of `evaluate`.
    Raises:
        ShapeError: If shapes do not match.
        DataError: If a value is NaN or no pixel is evaluated.
    """
    return _stratified_counts(open_intervals(lower, upper, target, mask), edges)


@dataclass(frozen=True)
class Block:
    """Consecutive images, (n_rows, n_channels, n_pixels) each: sizes, misses and which pixels are evaluated."""

    rows: slice
    sizes: FloatArray
    missed: BoolArray
    chosen: BoolArray


@dataclass(frozen=True)
class _UnitSums:
    """Sums over the evaluated pixels of each unit, (n_units,) float64 each."""

    misses: FloatArray
    sizes: FloatArray
    pixels: FloatArray


@dataclass(frozen=True)
class Intervals:
    """Arrays of one call; nothing is read before it is asked for."""

    lower: ArrayLike
    upper: ArrayLike
    target: ArrayLike
    mask: ArrayLike | None

    @property
    def n_images(self) -> int:
        """Number of images N."""
        return int(self.target.shape[0])

    def blocks(self) -> Iterator[Block]:
        """Sizes and misses, some images at a time."""
        for rows in iterate_blocks(self.n_images, self._block_rows()):
            lower, upper, target = (np.asarray(array[rows]) for array in (self.lower, self.upper, self.target))
            yield _measure(rows, lower, upper, target, None if self.mask is None else np.asarray(self.mask[rows]))

    def unit_sums(self, per_channel: bool) -> _UnitSums:
        """Sums per image, or per (image, channel) pair."""
        axis = 2 if per_channel else (1, 2)
        parts = []
        for block in self.blocks():
            misses = (block.missed & block.chosen).sum(axis=axis)
            sizes = np.where(block.chosen, block.sizes, 0.0).sum(axis=axis, dtype=np.float64)
            totals = (misses, sizes, block.chosen.sum(axis=axis))
            parts.append([np.asarray(total, dtype=np.float64).reshape(-1) for total in totals])
        sums = _UnitSums(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        if not sums.pixels.any():
            raise DataError("the mask selects no pixel: it must be 1 where pixels are evaluated")
        return sums

    def sizes(self) -> Iterator[FloatArray]:
        """Sizes of the evaluated pixels, float32, block by block."""
        for block in self.blocks():
            yield block.sizes[block.chosen]

    def _block_rows(self) -> int:
        arrays = (self.lower, self.upper, self.target, self.mask)
        chunk = max((int(array.chunks[0]) for array in arrays if array is not None and is_zarr(array)), default=1)
        per_image = max(1, int(np.prod(self.target.shape[1:], dtype=np.int64)))
        return chunk * max(1, _BLOCK_PIXELS // per_image // chunk)


def open_intervals(lower: ArrayLike, upper: ArrayLike, target: ArrayLike, mask: ArrayLike | None) -> Intervals:
    """Check the shapes and wrap the arrays of `evaluate`; zarr arrays stay on disk.

    Raises:
        ShapeError: If shapes do not match or the arrays are empty.
    """
    shape = check_same_shape(lower=lower, upper=upper, target=target)
    if not shape or 0 in shape:
        raise ShapeError(f"target has shape {shape}: at least one image with at least one pixel is needed")
    if mask is not None and tuple(mask.shape) not in (shape, (*shape[:1], 1, *shape[2:])):
        raise ShapeError(f"mask has shape {tuple(mask.shape)} but target has {shape}: they must be equal")
    mask = None if mask is None else _keep_zarr(mask)
    return Intervals(_keep_zarr(lower), _keep_zarr(upper), _keep_zarr(target), mask)


def _keep_zarr(array: ArrayLike) -> ArrayLike:
    return array if is_zarr(array) else as_numpy(array)


def _measure(
    rows: slice,
    lower: npt.NDArray[Any],
    upper: npt.NDArray[Any],
    target: npt.NDArray[Any],
    mask: npt.NDArray[Any] | None,
) -> Block:
    shape = (len(target), target.shape[1] if target.ndim > 1 else 1, -1)
    chosen = np.broadcast_to(True if mask is None else mask == 1, target.shape).reshape(shape)
    sizes = (upper - lower).astype(np.float32).reshape(shape)
    if np.isnan(np.where(chosen, sizes + target.reshape(shape), 0.0)).any():
        raise DataError(f"lower, upper or target holds NaN in images {rows.start} to {rows.stop - 1}")
    missed = ~((lower <= target) & (target <= upper)).reshape(shape)
    return Block(rows, sizes, missed, chosen)


def _evaluate_units(sums: _UnitSums) -> Metrics:
    filled = sums.pixels > 0
    sizes, risks = (total[filled] / sums.pixels[filled] for total in (sums.sizes, sums.misses))
    edges = np.concatenate([[0.0], np.quantile(sizes, _QUARTERS)])
    stratum = np.searchsorted(edges, sizes, side="left")  # 0: size <= 0, in no quarter
    totals, counts = (np.bincount(stratum, weights, minlength=5)[1:] for weights in (risks, np.ones_like(risks)))
    median = np.sort(sizes)[(len(sizes) - 1) // 2]
    return Metrics(float(risks.mean()), float(sizes.mean()), float(median), totals / np.maximum(counts, 1))


def _evaluate_pixels(data: Intervals) -> Metrics:
    sums = data.unit_sums(per_channel=False)
    edges = size_quantiles(data, _QUARTERS)
    misses, pixels = (table.sum(axis=0) for table in _stratified_counts(data, edges))
    stratified = np.divide(misses, pixels, out=np.full(4, np.nan), where=pixels > 0)
    n_pixels = float(sums.pixels.sum())
    risk, size = float(sums.misses.sum()) / n_pixels, float(sums.sizes.sum()) / n_pixels
    return Metrics(risk, size, float(edges[1]), stratified)


def _stratified_counts(data: Intervals, edges: FloatArray) -> tuple[IntArray, IntArray]:
    misses, pixels = (np.zeros((data.n_images, 4), dtype=np.int64) for _ in range(2))
    for block in data.blocks():
        stratum = sum((block.sizes > edge).astype(np.int8) for edge in edges)
        for quarter in range(4):
            inside = block.chosen & (stratum == quarter)
            pixels[block.rows, quarter] = inside.sum(axis=(1, 2))
            misses[block.rows, quarter] = (inside & block.missed).sum(axis=(1, 2))
    return misses, pixels


def size_quantiles(data: Intervals, levels: tuple[float, ...]) -> FloatArray:
    """Linearly interpolated quantiles of the sizes of all evaluated pixels, exact in float32, by radix selection."""
    high_bits = sum(np.bincount(_keys(sizes) >> 16, minlength=1 << 16) for sizes in data.sizes())
    n_pixels = int(np.sum(high_bits))
    if n_pixels == 0:
        raise DataError("the mask selects no pixel: it must be 1 where pixels are evaluated")
    ranks = np.array(levels) * (n_pixels - 1)
    wanted = np.unique(np.concatenate([np.floor(ranks), np.ceil(ranks)])).astype(np.int64)
    found = _order_statistics(data, np.cumsum(high_bits), wanted)
    low, high = (found[np.searchsorted(wanted, rounded(ranks))] for rounded in (np.floor, np.ceil))
    return np.asarray(low + (ranks - np.floor(ranks)) * (high - low))


def _order_statistics(data: Intervals, cumulative: IntArray, ranks: IntArray) -> FloatArray:
    """Sizes of the given ranks (0 = smallest), from the cumulative counts of the upper 16 bits of their keys."""
    prefixes = np.searchsorted(cumulative, ranks, side="right")
    low_bits = {int(prefix): np.zeros(1 << 16, dtype=np.int64) for prefix in prefixes}
    for sizes in data.sizes():
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
