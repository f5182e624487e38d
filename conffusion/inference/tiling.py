"""Images of any size in tiles of the size that a network knows: where they lie, how they are cut and put together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from conffusion.core.arrays import FloatArray
from conffusion.errors import ConfigError, DataError

_TOUCHING = np.ones((3, 3))  # pixels that meet at a corner belong to one hole


@dataclass(frozen=True, eq=False)
class Tile:
    """A square window of an image; where it reaches over the border, the image is mirrored.

    Attributes:
        top: Row of its first pixel; may be negative.
        left: Column of its first pixel; may be negative.
        weight: (size, size) share of what is predicted there; 0 = not wanted.
        mask: (size, size) uint8, 1 at the pixels that the network has to restore.
    """

    top: int
    left: int
    weight: FloatArray
    mask: npt.NDArray[np.uint8]

    def cut(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The tile's pixels of an image (..., H, W)."""
        rows = _mirrored(self.top, len(self.mask), image.shape[-2])
        columns = _mirrored(self.left, len(self.mask), image.shape[-1])
        return image[..., rows[:, None], columns]


def grid_tiles(height: int, width: int, size: int, overlap: int, step: int = 1) -> list[Tile]:
    """Tiles that cover an image, each overlapping the next by at least `overlap` pixels.

    Weights fall to the edges of a tile over the overlap, so that neighbours are blended without a seam.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        size: Side of a tile.
        overlap: Pixels shared with the next tile, at least; at least 0 and below `size`.
        step: Tiles start at multiples of it (the factor of super-resolution, so that all see the same raster).
    Raises:
        ConfigError: If the overlap is out of range.
    """
    if not 0 <= overlap < size:
        raise ConfigError(f"overlap = {overlap}: must be at least 0 and below the tile size {size}")
    weight = _ramp(size, overlap)
    everything = np.ones((size, size), np.uint8)
    tops, lefts = (_starts(length, size, overlap, step) for length in (height, width))
    if len(tops) == len(lefts) == 1:  # nothing to blend: the bounds as they are, to the last bit
        weight = np.ones_like(weight)
    return [Tile(top, left, weight, everything) for top in tops for left in lefts]


def hole_tiles(missing: npt.NDArray[np.uint8], trained: npt.NDArray[np.uint8]) -> list[Tile]:
    """One tile around each hole, so that it lies where the network's holes lay in training.

    The network is shown a hole of the size it was trained and calibrated with, which hides known pixels around a
    smaller one; only missing pixels are taken from what it says.

    Args:
        missing: (H, W), 1 at missing pixels; pixels that touch, be it at a corner, are one hole.
        trained: (size, size), 1 at the pixels that were missing in training: a box.
    Raises:
        DataError: If a hole does not fit into the box of the training.
    """
    labels, _ = ndimage.label(missing, structure=_TOUCHING)
    box_rows, box_columns = ndimage.find_objects(trained)[0]
    box = box_rows.stop - box_rows.start, box_columns.stop - box_columns.start
    tiles = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if height > box[0] or width > box[1]:
            raise DataError(
                f"the hole of {width}x{height} pixels at column {columns.start}, row {rows.start} is larger than the "
                f"{box[1]}x{box[0]} that the model was calibrated for: mask less, or train a model with a larger hole"
            )
        top = rows.start - (box[0] - height) // 2 - box_rows.start
        left = columns.start - (box[1] - width) // 2 - box_columns.start
        plain = Tile(top, left, np.empty(0), trained)
        inside = plain.cut(labels) == number
        inside &= _inside(top, len(trained), missing.shape[0])[:, None] & _inside(left, len(trained), missing.shape[1])
        tiles.append(Tile(top, left, inside.astype(float), np.maximum(trained, plain.cut(missing)).astype(np.uint8)))
    return tiles


class Canvas:
    """Puts predictions of an image's tiles together, as they come.

    Args:
        tiles: All tiles of the image.
        shape: Shape of what is put together, (..., H, W).
    """

    def __init__(self, tiles: Sequence[Tile], shape: tuple[int, ...]) -> None:
        self.tiles = tiles
        self._sum, self._weight = np.zeros(shape), np.zeros(shape[-2:])
        self._n_missing = len(tiles)

    @property
    def is_complete(self) -> bool:
        """Whether every tile was added."""
        return self._n_missing == 0

    def add(self, tile: Tile, values: FloatArray) -> None:
        """Take the prediction (..., size, size) of one tile."""
        rows, own_rows = _overlap(tile.top, len(tile.mask), self._weight.shape[0])
        columns, own_columns = _overlap(tile.left, len(tile.mask), self._weight.shape[1])
        weight = tile.weight[own_rows, own_columns]
        self._sum[..., rows, columns] += weight * values[..., own_rows, own_columns]
        self._weight[rows, columns] += weight
        self._n_missing -= 1

    def blend(self, background: FloatArray) -> FloatArray:
        """The weighted means, with the background where no tile has weight; to be called once."""
        seen = self._weight > 0
        np.divide(self._sum, self._weight, out=self._sum, where=seen)
        if not seen.all():
            self._sum[..., ~seen] = np.broadcast_to(background, self._sum.shape)[..., ~seen]
        return self._sum


def _mirrored(start: int, length: int, n: int) -> npt.NDArray[np.intp]:
    """Positions start .. start + length of a line of n pixels that is mirrored at both ends, again and again."""
    positions = np.arange(start, start + length) % (2 * n)
    return np.where(positions < n, positions, 2 * n - 1 - positions)


def _inside(start: int, length: int, n: int) -> npt.NDArray[np.bool_]:
    positions = np.arange(start, start + length)
    return np.asarray((positions >= 0) & (positions < n))


def _overlap(start: int, length: int, n: int) -> tuple[slice, slice]:
    """What a window shares with a line of n pixels, in the line's and in the window's own counting."""
    first, last = max(start, 0), min(start + length, n)
    return slice(first, last), slice(first - start, last - start)


def _starts(length: int, size: int, overlap: int, step: int) -> list[int]:
    """Multiples of `step`, the last tile at the end of the line; a line shorter than a tile lies in its middle."""
    if length <= size:
        return [-((size - length) // 2 // step * step)]
    stride = max((size - overlap) // step, 1) * step
    return [*range(0, length - size, stride), length - size]


def _ramp(size: int, overlap: int) -> FloatArray:
    """(size, size) weights, 1 in the middle, falling smoothly over `overlap` pixels towards each edge, never to 0."""
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
    line = np.sin(np.pi / 2 * np.minimum(distance / max(overlap, 1), 1.0)) ** 2
    return line[:, None] * line
