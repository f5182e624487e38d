"""Images in a zarr array on disk: (C, H, W), or (N, C, H, W) for several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from conffusion.errors import DataError
from conffusion.images.raw_image import N_COLOURS, ImageFile, Metadata, RawImage, check_size

MARKERS = ("zarr.json", ".zarray", ".zgroup")
IMAGE = "image"  # name of the array that counts where a group has several


def is_zarr_folder(path: Path) -> bool:
    """Whether a folder is a zarr array or group."""
    return any((path / marker).is_file() for marker in MARKERS)


class ZarrFile(ImageFile):
    """The images of one array.

    Args:
        path: Folder of an array, or of a group that has one array, or one called "image".
        max_pixels: Pixels that an image may have.
    Raises:
        DataError: If there is no such array, or its shape or type is not that of images.
    """

    def __init__(self, path: Path, max_pixels: int) -> None:
        array = _find_array(path)
        if array.ndim not in (3, 4) or array.shape[-3] not in N_COLOURS or array.shape[0] == 0:
            raise DataError(
                f"holds an array of shape {array.shape}, expected (C, H, W) or (N, C, H, W) with C = 1 (grey) or 3"
            )
        if array.dtype.kind not in "uif":
            raise DataError(f"holds values of type {array.dtype}, expected unsigned or signed integers, or floats")
        check_size(int(array.shape[-2]), int(array.shape[-1]), max_pixels)
        _check_chunk(array, max_pixels)
        self._array = array
        n_images = int(array.shape[0]) if array.ndim == 4 else 1
        self.sizes: Sequence[tuple[int, int]] = [(int(array.shape[-2]), int(array.shape[-1]))] * n_images

    def read(self, k: int) -> RawImage:
        """Decode image k."""
        array = self._array
        planes = np.asarray(array[k] if array.ndim == 4 else array[:])
        bits = planes.dtype.itemsize * 8
        return RawImage(
            np.moveaxis(planes, 0, -1),
            {"u": 2.0**bits - 1 if bits <= 16 else None, "f": 1.0}.get(planes.dtype.kind),
            ".zarr",
            metadata=Metadata(attributes=dict(array.attrs), zarr_format=array.metadata.zarr_format),
        )


def _find_array(path: Path) -> Any:
    node: Any = zarr.open(str(path), mode="r")
    if not isinstance(node, zarr.Group):
        return node
    arrays = dict(node.arrays())
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if IMAGE not in arrays:
        found = ", ".join(sorted(arrays)) or "none"
        raise DataError(f"is a group with the arrays: {found}; expected a single one, or one called {IMAGE!r}")
    return arrays[IMAGE]


def _check_chunk(array: Any, max_pixels: int) -> None:
    """Raise DataError if what has to be decoded at a time is far larger than an image may be."""
    n_values = int(np.prod(getattr(array, "shards", None) or array.chunks))
    if n_values > 4 * max_pixels:
        raise DataError(f"has chunks of {n_values:,} values; save it in chunks of one image, or raise --max-pixels")
