"""Critical values of all evaluated pixels, streamed in blocks of images, and counts of them per image.

Weights are held as whole numbers: in each image as multiples of about 2^-52 of its sum of weights. Their sums are then
exact in float64, whatever the order, so a search over sums of weights is as exact as one over counts, and weights of 0
and 1 give the very numbers of a mask.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from conffusion.calibration.families import Family, Shape
from conffusion.calibration.scaling import Scaling
from conffusion.calibration.units import Counts
from conffusion.core.arrays import FloatArray, IntArray
from conffusion.core.labelled_bounds import LabelledBlock, LabelledBounds
from conffusion.core.progress import Progress
from conffusion.errors import DataError

_CACHE_PIXELS = 1 << 16  # computed at a time, so that temporaries stay in the processor's cache
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
    """The evaluated pixels of some images under one set family; nothing is read before it is asked for.

    Attributes:
        images: Bounds, truth, mask and weights.
        scaling: How lambda moves the bounds.
        shape: What is done to each block of images before, if anything.
    """

    images: LabelledBounds
    scaling: Scaling
    shape: Shape | None = None

    @classmethod
    def of(cls, images: LabelledBounds, family: Family) -> "Pixels":
        """The pixels of images under a family; a few images are reshaped at once, more of them in every pass."""
        pixels = cls(images, family.scaling, family.shape)
        return pixels.reshaped() if int(np.prod(images.shape)) <= _RESHAPED_PIXELS else pixels

    def blocks(self, slices: Sequence[slice] | None = None, stride: int = 1) -> Iterator[Block]:
        """Evaluated pixels block by block; `stride` takes every so many pixels of the flattened images only.

        Raises:
            DataError: If an evaluated value is NaN or infinite, a weight negative, NaN or infinite, or the mask holds
                other values than 0 and 1.
        """
        slices = self.images.slices() if slices is None else slices
        n_images = sum(rows.stop - rows.start for rows in slices)
        progress = Progress("looking at bounds", n_images, unit="images", part=True)
        for block in self.images.blocks(_CACHE_PIXELS, slices):
            if self.shape is not None:
                lower, upper = self.shape.apply(block.lower, block.upper)
                block = replace(block, lower=lower, upper=upper)
            yield _flat(block, stride)
            progress.update(block.n_rows)

    def critical(self, block: Block) -> FloatArray:
        """(n_evaluated,) critical lambda of each pixel of a block; inf where no lambda covers."""
        critical = self.scaling.critical(block.lower, block.upper, block.target)
        critical[(block.target < 0.0) | (block.target > 1.0)] = np.inf  # sets are clamped to [0, 1]
        return critical

    def scaled(self, scale: float) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Evaluated bounds, block by block, moved by a scale and not clamped."""
        for block in self.blocks():
            yield self.scaling.apply(block.lower, block.upper, scale)

    def sample(self) -> FloatArray:
        """Critical values of about half a million pixels, spread over memory or over some chunks of the store."""
        slices = self.images.slices()
        per_slice = self.images.pixels_per_image * (slices[0].stop - slices[0].start)
        step = max(1, len(slices) * per_slice // max(_SAMPLE_PIXELS, 4 * per_slice))
        chosen = slices[::step]
        stride = max(1, len(chosen) * per_slice // _SAMPLE_PIXELS)
        stride += 1 - stride % 2  # odd, so that no column of the image is favoured
        return np.concatenate([self.critical(block) for block in self.blocks(chosen, stride)])

    def reshaped(self) -> "Pixels":
        """The same with the shape applied once, in memory, if there is one."""
        if self.shape is None:
            return self
        lower, upper = self.shape.apply(np.asarray(self.images.lower[:]), np.asarray(self.images.upper[:]))
        return Pixels(replace(self.images, lower=lower, upper=upper), self.scaling)

    def totals(self) -> IntArray:
        """(N,) number of evaluated pixels of each image, or sum of their weights.

        Raises:
            DataError: If a weight is negative, NaN or infinite, or the mask holds other values than 0 and 1.
        """
        if self.images.weights is None:
            return self.images.count_evaluated()
        sums = [np.bincount(block.row_of_all(), block.weights, minlength=block.n_rows) for block in self.blocks()]
        return np.concatenate(sums).astype(np.int64)

    def count_above(self, edges: FloatArray) -> Counts:
        """(N, n_edges) number (or weight) of critical values > edge; edges increasing, -inf allowed."""
        counts = np.zeros(
            (self.images.n_images, len(edges)), dtype=np.int32 if self.images.weights is None else np.float64
        )
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


def _flat(block: LabelledBlock, stride: int) -> Block:
    """The evaluated pixels of a block of images."""
    shape, rows = (block.n_rows, -1), block.rows
    arrays = {name: getattr(block, name).reshape(shape)[:, ::stride] for name in ("lower", "upper", "target")}
    n_pixels = arrays["target"].shape[1]
    ends, weights = np.arange(1, block.n_rows + 1) * n_pixels, None
    if block.mask is not None or block.weights is not None:
        chosen = block.evaluated.reshape(shape)[:, ::stride]
        if block.weights is not None:
            weights = _whole_weights(block, block.weights)[:, ::stride]
            chosen = weights > 0.0
            weights = weights[chosen]
        ends = chosen.sum(axis=1).cumsum()
        arrays = {name: array[chosen] for name, array in arrays.items()}
    values = {name: array.astype(np.float64).reshape(-1) for name, array in arrays.items()}
    for name, array in values.items():
        finite = np.isfinite(array)
        if not finite.all():
            raise DataError(
                f"{name} has {int((~finite).sum())} evaluated values that are NaN or infinite in images {rows.start} to"
                f" {rows.stop - 1}: replace them or leave them out by the mask"
            )
    return Block(rows, ends=ends, weights=weights, **values)


def _whole_weights(block: LabelledBlock, weights: npt.NDArray[Any]) -> FloatArray:
    """(n_rows, n_pixels) weights of images as whole numbers that add up to about 2^52 in each; 0 where masked out."""
    given = np.where(block.evaluated, weights, 0.0).astype(np.float64)
    if not bool(np.all((given >= 0.0) & (given < np.inf))):
        raise DataError(f"weights are negative, NaN or infinite in images {block.rows.start} to {block.rows.stop - 1}")
    flat = given.reshape(block.n_rows, -1)
    largest = flat.max(axis=1, keepdims=True)
    if not largest.all():
        image = block.rows.start + int(np.argmin(largest))
        raise DataError(f"the weights of image {image} are all 0 where it is evaluated: leave the image out")
    shares = flat / largest
    return np.asarray(np.rint(shares * (_WEIGHT_OF_IMAGE / shares.sum(axis=1, keepdims=True))))
