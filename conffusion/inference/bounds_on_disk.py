"""Bounds and truths of images of any sizes, row by row on disk, as calibration and metrics take them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from conffusion.calibration import Calibration
from conffusion.core.arrays import FloatArray, GroupLabels
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import StoreError
from conffusion.inference.interval import Interval, UncalibratedInterval
from conffusion.metrics import image_losses

_CHUNK = 1 << 16  # values
_FLAT: Any = {"name": "default", "separator": "."}  # no folders in folders, which take long to make and to remove
_DTYPES = {"lower": "float64", "upper": "float64", "target": "float64", "mask": "uint8"}


class BoundsOnDisk:
    """Restored values of images, one row an image, padded where others have more.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: str | Path) -> None:
        group = zarr.open_group(folder, mode="w")
        self._n_images = 0
        self._arrays = {
            name: group.create_array(
                name, shape=(0, 1, 1, 1), chunks=(1, 1, 1, _CHUNK), dtype=dtype, chunk_key_encoding=_FLAT
            )
            for name, dtype in _DTYPES.items()
        }

    def append(self, name: str, interval: Interval | UncalibratedInterval, target: FloatArray) -> None:
        """Take one image.

        Args:
            name: Of the image, for messages.
            interval: Its bounds.
            target: (C, H, W) truth.
        Raises:
            StoreError: If the disk is full.
        """
        lower, upper, truth = (
            array[:, interval.restored].reshape(-1) for array in (interval.lower, interval.upper, target)
        )
        values = {"lower": lower, "upper": upper, "target": truth, "mask": np.ones(lower.size, np.uint8)}
        try:
            for key, array in self._arrays.items():
                array.resize((self._n_images + 1, 1, 1, max(array.shape[3], lower.size)))
                array[self._n_images, 0, 0, : lower.size] = values[key]
        except OSError as error:
            raise StoreError(
                f"the values of {name} cannot be kept ({error}): free space in the folder of results"
            ) from error
        self._n_images += 1

    def labelled(self, groups: GroupLabels | None = None) -> LabelledBounds:
        """All images, (n_images, 1, 1, most values), which stay on disk; the mask is 0 in the padding.

        Args:
            groups: (n_images,) label of each image's group; None where every image is its own.
        """
        return LabelledBounds(**self._arrays, groups=groups)


@contextmanager
def temporary_bounds(folder: Path) -> Iterator[BoundsOnDisk]:
    """`BoundsOnDisk` in a temporary folder below `folder`, which is removed at the end.

    Raises:
        StoreError: If nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".values-", dir=folder, ignore_cleanup_errors=True)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    with temporary as path:
        yield BoundsOnDisk(path)


def calibrated_losses(bounds: LabelledBounds, calibration: Calibration) -> FloatArray:
    """(n_images,) share of each image's evaluated values outside its calibrated interval."""
    losses = [
        image_losses(*calibration.apply(block.lower, block.upper), block.target, block.evaluated)[0]
        for block in bounds.blocks()
    ]
    return np.concatenate(losses)
