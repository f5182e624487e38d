"""Reading sealed zarr groups, never without a look at their manifest."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from conffusion.core.arrays import iterate_blocks
from conffusion.errors import StoreError
from conffusion.store.backends import read_errors
from conffusion.store.checksums import SealedFiles
from conffusion.store.manifest import verify_manifest


@dataclass(frozen=True)
class SealedStore:
    """A verified store: zarr arrays by name, image ids and attributes.

    Attributes:
        path: Folder of the zarr group.
        arrays: Zarr arrays, axis 0 = images; read in blocks.
        image_ids: One id per row.
        attributes: What the writer recorded (seed, settings, timings, ...).
    """

    path: Path
    arrays: Mapping[str, "zarr.Array[Any]"]
    image_ids: tuple[str, ...]
    attributes: Mapping[str, Any]

    def __getitem__(self, name: str) -> "zarr.Array[Any]":
        try:
            return self.arrays[name]
        except KeyError:
            raise StoreError(f"{self.path}: has no array {name!r}, only {', '.join(self.arrays)}") from None


def open_store(path: str | Path) -> SealedStore:
    """Open a sealed store after checking every file against the manifest.

    Args:
        path: The store, `<name>.zarr`, or its manifest, `<name>.json`.
    Raises:
        StoreError: If it is missing, incomplete, truncated or altered.
    """
    path = Path(path).with_suffix(".zarr")
    manifest = verify_manifest(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr warns that string arrays have no v3 specification yet
            group = zarr.open_group(SealedFiles(manifest.backend.reader(), manifest.files.keys()), mode="r")
            arrays = dict(group.arrays())
            ids = tuple(str(image_id) for image_id in np.asarray(arrays.pop("image_id")[:]))
    except (KeyError, ValueError, OSError) as error:
        raise StoreError(f"{path}: is not a readable zarr group ({error}); delete it and rerun the rule") from error
    return SealedStore(path, arrays, ids, manifest.attributes)


def read_array(array: "zarr.Array[Any]", rows: slice = slice(None)) -> npt.NDArray[Any]:
    """Rows of a zarr array in memory.

    Raises:
        StoreError: If a chunk fails its checksum.
    """
    try:
        return np.asarray(array[rows])
    except Exception as error:
        if not isinstance(error, (ValueError, RuntimeError, OSError, *read_errors())):
            raise
        raise StoreError(f"{array.store_path}: corrupt chunk ({error}); delete the store and rerun the rule") from error


def blocks(array: "zarr.Array[Any]", rows: int | None = None) -> Iterator[npt.NDArray[Any]]:
    """All rows of a zarr array in order, a block at a time, so that memory is bounded.

    Args:
        array: Axis 0 = images. For several arrays in step, `zip` the blocks of each, with the same `rows`.
        rows: Rows of a block, the last one excepted; None: one shard (at most 256 MB), which is read at one go.
    Raises:
        StoreError: If a file vanished or a chunk fails its checksum.
    """
    for part in iterate_blocks(array.shape[0], rows or (array.shards or array.chunks)[0]):
        yield read_array(array, part)
