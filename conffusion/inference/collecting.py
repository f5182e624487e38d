"""Bounds and truths of images of any sizes, row by row on disk, as calibration and metrics take them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from conffusion.calibration.scaling import get_scaling
from conffusion.core.arrays import FloatArray
from conffusion.errors import StoreError
from conffusion.inference.interval import Interval, UncalibratedInterval
from conffusion.metrics import image_losses

_CHUNK = 1 << 16  # values
_FLAT: Any = {"name": "default", "separator": "."}  # no folders in folders, which take long to make and to remove
_ARRAYS = {"lower": "float64", "upper": "float64", "target": "float64", "mask": "uint8"}


@dataclass(eq=False)
class Collection:
    """Evaluated pixel values of images, one row an image, padded where others have more.

    Attributes:
        arrays: lower, upper, target and mask (1 = a value, 0 = padding) as zarr arrays (n_images, 1, 1, most values).
        n_images: Images taken so far.
    """

    arrays: dict[str, Any]
    n_images: int = 0

    def append(self, name: str, interval: Interval | UncalibratedInterval, target: FloatArray) -> None:
        """Take the restored values of one image.

        Args:
            name: For messages.
            interval: Its bounds.
            target: (C, H, W) truth.
        Raises:
            StoreError: If the disk is full.
        """
        values = {
            key: array[:, interval.restored].reshape(-1)
            for key, array in (("lower", interval.lower), ("upper", interval.upper), ("target", target))
        }
        n_values = len(values["lower"])
        values["mask"] = np.ones(n_values, np.uint8)
        try:
            for key, array in self.arrays.items():
                array.resize((self.n_images + 1, 1, 1, max(array.shape[3], n_values)))
                array[self.n_images, 0, 0, :n_values] = values[key]
        except OSError as error:
            raise StoreError(
                f"the values of {name} cannot be kept ({error}): free space in the folder of results"
            ) from error
        self.n_images += 1

    def losses(self, scaling: str, scale: float) -> FloatArray:
        """(n_images,) share of each image's values outside, at a scale of a plain set family."""
        family, losses = get_scaling(scaling), []
        for row in range(self.n_images):
            lower, upper, target, mask = (array[row : row + 1] for array in self.arrays.values())
            low, high = (bound.clip(0, 1) for bound in family.apply(lower, upper, scale))
            losses.append(image_losses(low, high, target, mask)[0])
        return np.concatenate(losses)


@contextmanager
def new_collection(folder: Path) -> Iterator[Collection]:
    """An empty collection in a temporary folder below `folder`, which is removed at the end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".values-", dir=folder, ignore_cleanup_errors=True)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    with temporary as place:
        group = zarr.open_group(place, mode="w")
        yield Collection(
            {
                name: group.create_array(
                    name, shape=(0, 1, 1, 1), chunks=(1, 1, 1, _CHUNK), dtype=dtype, chunk_key_encoding=_FLAT
                )
                for name, dtype in _ARRAYS.items()
            }
        )
