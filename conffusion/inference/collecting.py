"""Bounds and truths of images of any sizes, row by row on disk, as calibration and metrics take them."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from conffusion.calibration.scaling import get_scaling
from conffusion.core.arrays import FloatArray
from conffusion.errors import StoreError
from conffusion.metrics import image_losses

_CHUNK = 1 << 16  # values
_FLAT: Any = {"name": "default", "separator": "."}  # no folders in folders, which take long to make and to remove
_ARRAYS = {"lower": "float64", "upper": "float64", "target": "float64", "mask": "uint8"}


@dataclass(eq=False)
class Collection:
    """Evaluated pixel values of images, one row an image, padded where others have more.

    Attributes:
        arrays: lower, upper, target and mask (1 = a value, 0 = padding) as zarr arrays (n_images, 1, 1, most values).
        names: Name of each image.
        features: (n_images, 10 or 14) for the drift check.
        sizes: (height, width) of each image.
        channels: Numbers of channels that images have.
    """

    arrays: dict[str, Any]
    names: list[str] = field(default_factory=list)
    features: list[FloatArray] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    channels: set[int] = field(default_factory=set)

    def append(
        self,
        name: str,
        lower: FloatArray,
        upper: FloatArray,
        target: FloatArray,
        mask: npt.NDArray[np.uint8],
        features: FloatArray,
    ) -> None:
        """Take one image: (C, H, W) arrays and its (H, W) mask."""
        self.channels.add(len(lower))
        chosen = np.broadcast_to(mask == 1, lower.shape)
        values = {"lower": lower[chosen], "upper": upper[chosen], "target": target[chosen]}
        values["mask"] = np.ones(values["lower"].size, np.uint8)
        self._keep(name, values, features, (lower.shape[1], lower.shape[2]))

    def take(self, other: "Collection", order: Sequence[int]) -> None:
        """Take images of another collection, in this order; in place of any of its own."""
        for key, array in self.arrays.items():
            array.resize((len(order), *other.arrays[key].shape[1:]))
        for row in order:
            values = {key: array[row, 0, 0] for key, array in other.arrays.items()}
            self._keep(other.names[row], values, other.features[row], other.sizes[row])

    def losses(self, scaling: str, scale: float) -> FloatArray:
        """(n_images,) share of each image's values outside, at a scale of a plain set family."""
        family, losses = get_scaling(scaling), []
        for row in range(len(self.names)):
            lower, upper, target, mask = (array[row : row + 1] for array in self.arrays.values())
            low, high = (bound.clip(0, 1) for bound in family.apply(lower, upper, scale))
            losses.append(image_losses(low, high, target, mask)[0])
        return np.concatenate(losses)

    @property
    def smallest(self) -> tuple[int, int]:
        """Smallest height and smallest width."""
        return min(height for height, _ in self.sizes), min(width for _, width in self.sizes)

    @property
    def largest(self) -> tuple[int, int]:
        """Largest height and largest width."""
        return max(height for height, _ in self.sizes), max(width for _, width in self.sizes)

    def _keep(self, name: str, values: Mapping[str, Any], features: FloatArray, size: tuple[int, int]) -> None:
        row, n_values = len(self.names), len(values["lower"])
        try:
            for key, array in self.arrays.items():
                wanted = max(array.shape[0], row + 1), 1, 1, max(array.shape[3], n_values)
                if wanted != array.shape:
                    array.resize(wanted)
                array[row, 0, 0, :n_values] = values[key]
        except OSError as error:
            raise StoreError(
                f"the values of {name} cannot be kept ({error}): free space in the folder of results"
            ) from error
        self.names.append(name)
        self.features.append(features)
        self.sizes.append(size)


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
