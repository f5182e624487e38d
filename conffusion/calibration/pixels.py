"""Critical values of all evaluated pixels, streamed in blocks of images, and counts of them per image.

Weights are held as whole numbers: in each image as multiples of about 2^-52 of its sum of weights. Their sums are then
exact in float64, whatever the order, so a search over sums of weights is as exact as one over counts, and weights of 0
and 1 give the very numbers of a mask.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from conffusion.calibration.families import Family, Shape, get_family
from conffusion.calibration.scaling import Scaling
from conffusion.calibration.units import Counts
from conffusion.core.arrays import (
    ArrayLike,
    BoolArray,
    FloatArray,
    IntArray,
    as_numpy,
    check_same_shape,
    is_zarr,
    iterate_blocks,
)
from conffusion.core.progress import Progress
from conffusion.errors import DataError, ShapeError

_CACHE_PIXELS = 1 << 16  # computed at a time, so that temporaries stay in the processor's cache
_READ_PIXELS = 1 << 22  # read from zarr at a time
_SAMPLE_PIXELS = 1 << 19  # looked at to place the first edges
_RESHAPED_PIXELS = 1 << 22  # reshaped once and kept; of more, the shape is applied block by block in every pass
_WEIGHT_OF_IMAGE = 2.0**52  # sum of an image's weights, up to rounding; sums below 2^53 are exact


@dataclass(frozen=True)
class Block:
    """Evaluated pixels of consecutive images, flattened image after image.

    Attributes:
        rows: Images of the block.
        lower: (n_evaluated,) float64.
        upper: (n_evaluated,) float64.
        target: (n_evaluated,) float64.
        ends: (n_rows,) number of evaluated pixels up to and including each image.
        weights: (n_evaluated,) float64 whole numbers; None where all pixels of an image weigh the same.
    """

    rows: slice
    lower: FloatArray
    upper: FloatArray
    target: FloatArray
    ends: IntArray
    weights: FloatArray | None = None

    @property
    def n_rows(self) -> int:
        """Number of images of the block."""
        return int(self.rows.stop - self.rows.start)

    def row_of_all(self) -> IntArray:
        """Row within the block to which each evaluated pixel belongs."""
        return np.repeat(np.arange(self.n_rows), np.diff(self.ends, prepend=0))

    def row_of(self, positions: IntArray) -> IntArray:
        """Row within the block to which evaluated pixels belong."""
        return np.searchsorted(self.ends, positions, side="right")


@dataclass(frozen=True)
class Pixels:
    """Bounds, truth and mask of a set of images under one family; nothing is read before it is asked for.

    Attributes:
        lower: (N, ...) lower bounds.
        upper: Upper bounds.
        target: Truth.
        mask: Pixels where it is 1 are evaluated; None evaluates all.
        scaling: How lambda moves the bounds.
        shape: What is done to each block of images before, if anything.
        weights: Weight of each evaluated pixel within its image, >= 0; None weighs all alike.
    """

    lower: ArrayLike
    upper: ArrayLike
    target: ArrayLike
    mask: ArrayLike | None
    scaling: Scaling
    shape: Shape | None = None
    weights: ArrayLike | None = None

    @property
    def n_images(self) -> int:
        """Number of images N."""
        return int(self.target.shape[0])

    def blocks(self, slices: list[slice] | None = None, stride: int = 1) -> Iterator[Block]:
        """Evaluated pixels block by block; `stride` takes every so many pixels of the flattened images only.

        Raises:
            DataError: If an evaluated value is NaN or infinite, or a weight negative, NaN or infinite.
        """
        slices = self.slices() if slices is None else slices
        n_images = sum(rows.stop - rows.start for rows in slices)
        progress = Progress("looking at bounds", n_images, unit="images", part=True)
        for big in slices:
            arrays = [_read(array, big) for array in self._arrays]
            for small in iterate_blocks(big.stop - big.start, self._rows_of(_CACHE_PIXELS)):
                parts: list[Any] = [None if array is None else array[small] for array in arrays]
                if self.shape is not None:
                    parts[:2] = self.shape.apply(*parts[:2])
                yield _block(slice(big.start + small.start, big.start + small.stop), parts, stride)
                progress.update(small.stop - small.start)

    def critical(self, block: Block) -> FloatArray:
        """(n_evaluated,) critical lambda of each pixel of a block; inf where no lambda covers."""
        critical = self.scaling.critical(block.lower, block.upper, block.target)
        critical[(block.target < 0.0) | (block.target > 1.0)] = np.inf  # sets are clamped to [0, 1]
        return critical

    def scaled(self, scale: float) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Evaluated bounds, block by block, moved by a scale and not clamped."""
        for block in self.blocks():
            yield self.scaling.apply(block.lower, block.upper, scale)

    def slices(self) -> list[slice]:
        """Slices of images in which the arrays are read: all at once in memory, whole chunks from zarr."""
        chunks = [int(array.chunks[0]) for array in self._arrays if array is not None and is_zarr(array)]
        if not chunks:
            return [slice(0, self.n_images)]
        chunk = max(chunks)
        return list(iterate_blocks(self.n_images, chunk * max(1, self._rows_of(_READ_PIXELS) // chunk)))

    def sample(self) -> FloatArray:
        """Critical values of about half a million pixels, spread over memory or over some chunks of the store."""
        slices = self.slices()
        per_slice = self._pixels_per_image() * (slices[0].stop - slices[0].start)
        step = max(1, len(slices) * per_slice // max(_SAMPLE_PIXELS, 4 * per_slice))
        chosen = slices[::step]
        stride = max(1, len(chosen) * per_slice // _SAMPLE_PIXELS)
        stride += 1 - stride % 2  # odd, so that no column of the image is favoured
        return np.concatenate([self.critical(block) for block in self.blocks(chosen, stride)])

    def reshaped(self) -> "Pixels":
        """The same with the shape applied once, in memory, if there is one."""
        if self.shape is None:
            return self
        lower, upper = self.shape.apply(np.asarray(self.lower[:]), np.asarray(self.upper[:]))
        return replace(self, lower=lower, upper=upper, shape=None)

    def totals(self) -> IntArray:
        """(N,) number of evaluated pixels of each image, or sum of their weights.

        Raises:
            DataError: If a weight is negative, NaN or infinite, or the mask holds other values than 0 and 1.
        """
        if self.weights is None:
            return self.count_evaluated()
        sums = [np.bincount(block.row_of_all(), block.weights, minlength=block.n_rows) for block in self.blocks()]
        return np.concatenate(sums).astype(np.int64)

    def count_evaluated(self) -> IntArray:
        """(N,) number of pixels of each image where the mask is 1.

        Raises:
            DataError: If the mask holds other values than 0 and 1.
        """
        if self.mask is None:
            return np.full(self.n_images, self._pixels_per_image(), dtype=np.int64)
        counts = np.zeros(self.n_images, dtype=np.int64)
        repeats = self._pixels_per_image() // max(1, int(np.prod(self.mask.shape[1:])))
        for rows in self.slices():
            chosen = _checked_chosen(_read(self.mask, rows), rows)
            counts[rows] = chosen.reshape(len(chosen), -1).sum(axis=1) * repeats
        return counts

    def count_above(self, edges: FloatArray) -> Counts:
        """(N, n_edges) number (or weight) of critical values > edge; edges increasing, -inf allowed."""
        counts = np.zeros((self.n_images, len(edges)), dtype=np.int32 if self.weights is None else np.float64)
        for block in self.blocks():
            critical = self.critical(block)
            positions = np.flatnonzero(critical > edges[0])
            bins = np.searchsorted(edges, critical[positions], side="left") - 1
            cells = block.row_of(positions) * len(edges) + bins
            weights = None if block.weights is None else block.weights[positions]
            table = np.bincount(cells, weights, minlength=block.n_rows * len(edges)).reshape(block.n_rows, -1)
            counts[block.rows] = table[:, ::-1].cumsum(axis=1)[:, ::-1]
        return counts

    def between(self, low: float, high: float) -> tuple[FloatArray, IntArray, FloatArray | None]:
        """All critical values in the open interval (low, high), the image of each, and its weight, if there are any."""
        values, images, weights = [], [], []
        for block in self.blocks():
            critical = self.critical(block)
            positions = np.flatnonzero((critical > low) & (critical < high))
            values.append(critical[positions])
            images.append(block.row_of(positions) + block.rows.start)
            if block.weights is not None:
                weights.append(block.weights[positions])
        return np.concatenate(values), np.concatenate(images), np.concatenate(weights) if weights else None

    def number_between(self, low: float, high: float) -> int:
        """Number of critical values in (low, high]."""
        blocks = (self.critical(block) for block in self.blocks())
        return sum(int(np.count_nonzero((critical > low) & (critical <= high))) for critical in blocks)

    def largest(self) -> float:
        """Largest finite critical value; -inf if there is none."""
        blocks = (self.critical(block) for block in self.blocks())
        return float(max(np.max(critical, initial=-np.inf, where=critical < np.inf) for critical in blocks))

    @property
    def _arrays(self) -> tuple[ArrayLike | None, ...]:
        return self.lower, self.upper, self.target, self.mask, self.weights

    def _pixels_per_image(self) -> int:
        return int(np.prod(self.target.shape[1:], dtype=np.int64))

    def _rows_of(self, n_pixels: int) -> int:
        return max(1, n_pixels // max(1, self._pixels_per_image()))


def open_pixels(
    lower: ArrayLike,
    upper: ArrayLike,
    target: ArrayLike,
    mask: ArrayLike | None,
    family: str | Family,
    weights: ArrayLike | None = None,
) -> Pixels:
    """Check the shapes and wrap the arrays; torch tensors become NumPy views, zarr arrays stay on disk.

    Raises:
        ShapeError: If the shapes differ or the arrays are empty; mask and weights may have 1 channel for all channels.
        ConfigError: If the family is unknown.
    """
    shape = check_same_shape(lower=lower, upper=upper, target=target)
    if not shape or 0 in shape:
        raise ShapeError(f"target has shape {shape}: at least one image with at least one pixel is needed")
    for name, array in (("mask", mask), ("weights", weights)):
        if array is not None and tuple(array.shape) not in (shape, (*shape[:1], 1, *shape[2:])):
            raise ShapeError(f"{name} has shape {tuple(array.shape)} but target has {shape}: they must be equal")
    mask, weights = (None if array is None else _keep_zarr(array) for array in (mask, weights))
    chosen, arrays = get_family(family), (_keep_zarr(lower), _keep_zarr(upper), _keep_zarr(target), mask)
    pixels = Pixels(*arrays, chosen.scaling, chosen.shape, weights)
    return pixels.reshaped() if int(np.prod(shape)) <= _RESHAPED_PIXELS else pixels


def _keep_zarr(array: ArrayLike) -> ArrayLike:
    return array if is_zarr(array) else as_numpy(array)


def _read(array: ArrayLike | None, rows: slice) -> npt.NDArray[Any] | None:
    return None if array is None else np.asarray(array[rows])


def _chosen(mask: npt.NDArray[Any] | None) -> BoolArray:
    """Pixels that are evaluated: where the mask is 1 (or True)."""
    return np.asarray(mask == 1)


def _checked_chosen(mask: Any, rows: slice) -> BoolArray:
    """The same, of a mask that holds 0 and 1 only."""
    chosen = _chosen(mask)
    if np.count_nonzero(mask) != np.count_nonzero(chosen):
        raise DataError(
            f"mask has values other than 0 and 1 in images {rows.start} to {rows.stop - 1}: it must be 1 where pixels"
            " are evaluated, else 0; weights of pixels are an argument of their own"
        )
    return chosen


def _block(rows: slice, parts: list[Any], stride: int) -> Block:
    """Block from the arrays lower, upper, target, mask (or None) and weights (or None) of its images."""
    n_rows = rows.stop - rows.start
    *values, mask, given = parts
    flat = [part.reshape(n_rows, -1)[:, ::stride] for part in values]
    weights, whole = None, None
    if given is not None:
        weights = _whole_weights(given, mask, rows, values[0].shape)[:, ::stride]
        whole = weights > 0.0
        weights = weights[whole]
    elif mask is not None:
        whole = np.broadcast_to(_chosen(mask), values[0].shape).reshape(n_rows, -1)[:, ::stride]
    if whole is None:
        ends = np.arange(1, n_rows + 1) * flat[0].shape[1]
    else:
        ends = whole.sum(axis=1).cumsum()
        flat = [part[whole] for part in flat]
    lower, upper, target = (part.astype(np.float64).reshape(-1) for part in flat)
    for name, array in (("lower", lower), ("upper", upper), ("target", target)):
        _check_finite(name, array, rows)
    return Block(rows, lower, upper, target, ends, weights)


def _whole_weights(weights: npt.NDArray[Any], mask: Any, rows: slice, shape: tuple[int, ...]) -> FloatArray:
    """(n_rows, n_pixels) weights of images as whole numbers that add up to about 2^52 in each; 0 where masked out."""
    chosen = True if mask is None else _checked_chosen(mask, rows)
    given = np.where(chosen, weights, 0.0).astype(np.float64)
    if not bool(np.all((given >= 0.0) & (given < np.inf))):
        raise DataError(f"weights are negative, NaN or infinite in images {rows.start} to {rows.stop - 1}")
    flat = np.broadcast_to(given, shape).reshape(rows.stop - rows.start, -1)
    largest = flat.max(axis=1, keepdims=True)
    if not largest.all():
        image = rows.start + int(np.argmin(largest))
        raise DataError(f"the weights of image {image} are all 0 where it is evaluated: leave the image out")
    shares = flat / largest
    return np.asarray(np.rint(shares * (_WEIGHT_OF_IMAGE / shares.sum(axis=1, keepdims=True))))


def _check_finite(name: str, values: FloatArray, rows: slice) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        raise DataError(
            f"{name} has {int((~finite).sum())} evaluated values that are NaN or infinite in images {rows.start} to"
            f" {rows.stop - 1}: replace them or leave them out by the mask"
        )
