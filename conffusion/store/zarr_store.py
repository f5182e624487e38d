"""Sealed zarr v3 groups: one row per image, sharded, with checksummed chunks and a manifest beside them."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from conffusion.errors import StoreError
from conffusion.store.files import atomic_path
from conffusion.store.manifest import manifest_path, verify_manifest, write_manifest

ROWS_PER_SHARD = 64


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


def write_store(
    path: str | Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    image_ids: list[str],
    attributes: Mapping[str, Any],
) -> None:
    """Write and seal a store; nothing is left at `path` unless all of it could be written.

    Args:
        path: Folder to create, `<name>.zarr`, or its manifest, `<name>.json`, which stands beside it.
        arrays: Arrays whose axis 0 runs over images, as many as `image_ids`.
        image_ids: Unique id of every row.
        attributes: JSON-serialisable record of how the arrays were made.
    Raises:
        StoreError: If the number of rows and ids differ, or the disk refuses.
    """
    path = Path(path).with_suffix(".zarr")
    for name, array in arrays.items():
        if len(array) != len(image_ids):
            raise StoreError(f"{path}: array {name!r} has {len(array)} rows for {len(image_ids)} image ids")
    manifest_path(path).unlink(missing_ok=True)
    try:
        with atomic_path(path) as temporary:
            _write_group(temporary, arrays, image_ids, attributes)
        write_manifest(path, dict(attributes))
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error}); check free space and permissions") from error


def open_store(path: str | Path) -> SealedStore:
    """Open a sealed store after checking every file against the manifest.

    Args:
        path: The store, `<name>.zarr`, or its manifest, `<name>.json`.
    Raises:
        StoreError: If it is missing, incomplete, truncated or altered.
    """
    path = Path(path).with_suffix(".zarr")
    if not path.is_dir():
        raise StoreError(f"{path}: no such store; run the rule that makes it")
    attributes = verify_manifest(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr warns that string arrays have no v3 specification yet
            group = zarr.open_group(str(path), mode="r")
            arrays = dict(group.arrays())
            ids = tuple(str(image_id) for image_id in np.asarray(arrays.pop("image_id")[:]))
    except (KeyError, ValueError, OSError) as error:
        raise StoreError(f"{path}: is not a readable zarr group ({error}); delete it and rerun the rule") from error
    return SealedStore(path, arrays, ids, attributes)


def read_array(array: "zarr.Array[Any]", rows: slice = slice(None)) -> npt.NDArray[Any]:
    """Rows of a zarr array in memory.

    Raises:
        StoreError: If a chunk fails its checksum.
    """
    try:
        return np.asarray(array[rows])
    except (ValueError, RuntimeError, OSError) as error:
        raise StoreError(f"{array.store_path}: corrupt chunk ({error}); delete the store and rerun the rule") from error


def _write_group(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], image_ids: list[str], attributes: Mapping[str, Any]
) -> None:
    group = zarr.create_group(str(path), attributes=dict(attributes))
    for name, array in arrays.items():
        rows = min(ROWS_PER_SHARD, len(array))
        target = group.create_array(
            name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=(1, *array.shape[1:]),
            shards=(rows, *array.shape[1:]),
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            config={"write_empty_chunks": True},
        )
        target[...] = array
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns that string arrays have no v3 specification yet
        ids = group.create_array("image_id", shape=(len(image_ids),), dtype=str)
        ids[...] = np.array(image_ids, dtype=object)
