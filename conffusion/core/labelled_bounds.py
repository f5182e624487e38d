"""Bounds of images whose truth is known: the one bundle that calibration, metrics and evaluation take."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import (
    ArrayLike,
    BoolArray,
    GroupLabels,
    IntArray,
    as_numpy,
    check_same_shape,
    is_zarr,
    iterate_blocks,
)
from conffusion.errors import DataError, ShapeError

BLOCK_PIXELS = 1 << 18  # handed out at a time
_READ_PIXELS = 1 << 22  # read from zarr at a time
_PER_PIXEL = ("lower", "upper", "target", "mask", "weights")


@dataclass(frozen=True, eq=False)
class LabelledBlock:
    """Consecutive images of `LabelledBounds`, in memory, in the types in which they are stored.

    Attributes:
        rows: Which images.
        lower: (n_rows, ...) lower bounds.
        upper: Upper bounds.
        target: Truth.
        mask: Same shape or one channel for all, True where a pixel is evaluated; None: all are.
        weights: Same shape or one channel for all; None: all pixels weigh alike.
    """

    rows: slice
    lower: npt.NDArray[Any]
    upper: npt.NDArray[Any]
    target: npt.NDArray[Any]
    mask: BoolArray | None = None
    weights: npt.NDArray[Any] | None = None

    @property
    def n_rows(self) -> int:
        """Number of images."""
        return len(self.target)

    @property
    def evaluated(self) -> BoolArray:
        """(n_rows, ...) of the full shape: whether each pixel is evaluated."""
        return np.broadcast_to(True if self.mask is None else self.mask, self.target.shape)


@dataclass(frozen=True, eq=False)
class LabelledBounds:
    """Bounds and truth of N images, and which of their pixels count.

    Arrays may be NumPy arrays, torch tensors (kept as NumPy views) or zarr arrays, which stay on disk and are read in
    blocks. Values are looked at when they are read, shapes at once.

    Attributes:
        lower: (N, C, H, W) lower bounds in [0, 1]; any shape with the images along the first axis will do where no set
            family with a shape and no image position is involved.
        upper: Upper bounds, same shape.
        target: Truth, same shape, in [0, 1].
        mask: Same shape, or (N, 1, H, W), of 0 and 1; pixels where it is 1 are evaluated. None evaluates all.
        groups: (N,) label of each image's group; None where every image is its own.
        weights: Same shape, or (N, 1, H, W); weight of each pixel within its image, >= 0. None weighs all alike.

    Raises:
        ShapeError: If shapes do not match, an array is empty, or there is not one label per image.
        DataError: If a label is None or NaN.
    """

    lower: ArrayLike
    upper: ArrayLike
    target: ArrayLike
    mask: ArrayLike | None = None
    groups: GroupLabels | None = None
    weights: ArrayLike | None = None

    def __post_init__(self) -> None:
        shape = check_same_shape(lower=self.lower, upper=self.upper, target=self.target)
        if not shape or 0 in shape:
            raise ShapeError(f"target has shape {shape}: at least one image with at least one pixel is needed")
        for name in ("mask", "weights"):
            check_mask_shape(name, getattr(self, name), shape)
        for name in _PER_PIXEL:
            array = getattr(self, name)
            object.__setattr__(self, name, array if array is None or is_zarr(array) else as_numpy(array))
        if self.groups is not None:
            object.__setattr__(self, "groups", check_labels("groups", self.groups, shape[0]))

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W), or whatever the arrays have."""
        return tuple(self.target.shape)

    @property
    def n_images(self) -> int:
        """Number of images N."""
        return self.shape[0]

    @property
    def pixels_per_image(self) -> int:
        """Pixel values of an image, be they evaluated or not."""
        return int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def n_units(self) -> int:
        """Number of groups, or of images where there are no groups."""
        return self.n_images if self.groups is None else len(np.unique(self.groups))

    def blocks(self, n_pixels: int = BLOCK_PIXELS, slices: Sequence[slice] | None = None) -> Iterator[LabelledBlock]:
        """All images, some at a time.

        Args:
            n_pixels: Pixel values in a block, about; at least one image.
            slices: Images to read, as by `slices`; None: all.
        Raises:
            DataError: If the mask holds other values than 0 and 1.
        """
        per_pixel = {name: getattr(self, name) for name in _PER_PIXEL}
        for rows, arrays in read_blocks(per_pixel, n_pixels, self.slices() if slices is None else slices):
            mask = arrays.pop("mask")
            yield LabelledBlock(rows, mask=None if mask is None else evaluated(mask, rows.start), **arrays)

    def slices(self) -> list[slice]:
        """Images that are read together: all that are in memory, some whole chunks of zarr arrays."""
        return slices_to_read(getattr(self, name) for name in _PER_PIXEL)

    def count_evaluated(self) -> IntArray:
        """(N,) number of evaluated pixels of each image; reads the mask alone.

        Raises:
            DataError: If the mask holds other values than 0 and 1.
        """
        if self.mask is None:
            return np.full(self.n_images, self.pixels_per_image, dtype=np.int64)
        counts = np.zeros(self.n_images, dtype=np.int64)
        repeats = self.pixels_per_image // max(1, int(np.prod(self.mask.shape[1:], dtype=np.int64)))
        for rows in self.slices():
            counts[rows] = evaluated(np.asarray(self.mask[rows]), rows.start).reshape(rows.stop - rows.start, -1).sum(1)
        return counts * repeats

    def take(self, images: IntArray) -> "LabelledBounds":
        """Some images, in the given order, in memory.

        Args:
            images: Their numbers.
        """
        return self._each(lambda array: array.oindex[images] if is_zarr(array) else array[images])

    def in_memory(self) -> "LabelledBounds":
        """The same without zarr arrays, which are read whole."""
        return self._each(lambda array: array[:])

    def _each(self, read: Callable[[ArrayLike], Any]) -> "LabelledBounds":
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return LabelledBounds(**{name: None if array is None else read(array) for name, array in arrays.items()})


def read_blocks(
    arrays: Mapping[str, ArrayLike | None], n_pixels: int, slices: Sequence[slice]
) -> Iterator[tuple[slice, dict[str, Any]]]:
    """Blocks of arrays with the images along the first axis: which images, and each array's part.

    Args:
        arrays: NumPy or zarr arrays by name, or None; the first is one with all channels.
        n_pixels: Pixel values of the first array in a block, about; at least one image.
        slices: Images that are read together, as by `slices_to_read`.
    """
    first: ArrayLike = next(iter(arrays.values()))
    n_rows = max(1, n_pixels // max(1, int(np.prod(first.shape[1:], dtype=np.int64))))
    for big in slices:
        read = {name: None if array is None else np.asarray(array[big]) for name, array in arrays.items()}
        for small in iterate_blocks(big.stop - big.start, n_rows):
            rows = slice(big.start + small.start, big.start + small.stop)
            yield rows, {name: None if array is None else array[small] for name, array in read.items()}


def slices_to_read(arrays: Iterable[ArrayLike | None]) -> list[slice]:
    """Images to read together: all of arrays in memory; of zarr arrays whole chunks, of about four million values."""
    given = [array for array in arrays if array is not None]
    n_images, per_image = int(given[0].shape[0]), int(np.prod(given[0].shape[1:], dtype=np.int64))
    chunks = [int(array.chunks[0]) for array in given if is_zarr(array)]
    if not chunks:
        return [slice(0, n_images)]
    chunk = max(chunks)
    return list(iterate_blocks(n_images, chunk * max(1, _READ_PIXELS // max(1, per_image) // chunk)))


def check_mask_shape(name: str, mask: ArrayLike | None, shape: tuple[int, ...]) -> None:
    """Raise ShapeError unless `mask` is None, or of the given shape, or has one channel for all."""
    if mask is not None and tuple(mask.shape) not in (shape, (*shape[:1], 1, *shape[2:])):
        raise ShapeError(f"{name} has shape {tuple(mask.shape)} but the bounds have {shape}: they must be equal")


def check_labels(name: str, labels: GroupLabels, n_images: int) -> npt.NDArray[Any]:
    """The labels of images, (N,), as an array.

    Raises:
        ShapeError: If there is not one for each image.
        DataError: If one is None or NaN.
    """
    array = as_numpy(labels)
    if array.shape != (n_images,):
        raise ShapeError(f"{name} has shape {array.shape}: one label for each of {n_images} images is needed")
    if array.dtype.kind in "fO":
        missing = [label is None or label != label for label in array.tolist()]
        if any(missing):
            raise DataError(f"{name}: that of image {missing.index(True)} is missing: give every image a label")
    return array


def evaluated(mask: npt.NDArray[Any], first: int) -> BoolArray:
    """Whether each pixel is evaluated, from the mask of consecutive images.

    Args:
        mask: 1 (or True) where a pixel is evaluated, else 0.
        first: Number of the first image, for messages.
    Raises:
        DataError: If the mask holds other values than 0 and 1.
    """
    if mask.dtype == bool:
        return mask
    chosen = np.asarray(mask == 1)
    if np.count_nonzero(mask) != np.count_nonzero(chosen):
        raise DataError(
            f"mask has values other than 0 and 1 in images {first} to {first + len(mask) - 1}: it must be 1 where"
            " pixels are evaluated, else 0; weights of pixels are an argument of their own"
        )
    return chosen
