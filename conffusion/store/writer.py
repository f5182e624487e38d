"""Writing sealed zarr v3 groups: one row per image, sharded, with checksummed chunks and a manifest beside them."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from conffusion.core.arrays import iterate_blocks
from conffusion.errors import StoreError
from conffusion.store.backends import Backend, new_backend
from conffusion.store.checksums import ChecksumStore
from conffusion.store.files import remove_leftovers, translate_oserror
from conffusion.store.manifest import manifest_path, write_manifest

ROWS_PER_SHARD = 64  # at most
BYTES_PER_SHARD = 256 * 10**6  # of all arrays together, before compression, unless one row has more


@dataclass(frozen=True)
class ArraySpec:
    """Form of an array of a store.

    Attributes:
        shape: Shape of one row; the axis of images is not part of it.
        dtype: Type of the values.
    """

    shape: tuple[int, ...]
    dtype: npt.DTypeLike

    @property
    def row_bytes(self) -> int:
        """Size of one row in memory."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class StoreWriter:
    """Takes the rows of a store in order; writes every full shard in a second thread while more rows are made.

    At most two shards are held in memory: one that fills, and one that is being written.

    Attributes:
        attributes: JSON-serialisable record of how the arrays were made; may be changed until the store is closed.
    """

    def __init__(
        self, backend: Backend, layout: Mapping[str, ArraySpec], image_ids: Sequence[str], attributes: Mapping[str, Any]
    ) -> None:
        self.attributes: dict[str, Any] = dict(attributes)
        self._backend, self._layout, self._n_rows = backend, dict(layout), len(image_ids)
        self._shard_rows = min(rows_per_shard(layout), self._n_rows)
        self._files = ChecksumStore(backend.start())
        self._group = zarr.create_group(self._files, attributes=self.attributes)
        self._arrays = {name: self._create(name, spec) for name, spec in layout.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr warns that string arrays have no v3 specification yet
            ids = self._group.create_array("image_id", shape=(self._n_rows,), dtype=str)
            ids[...] = np.array(image_ids, dtype=object)
        self._n_written = self._n_buffered = 0
        self._buffers = self._empty_buffers()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._pending: Future[None] | None = None

    def append(self, arrays: Mapping[str, npt.ArrayLike]) -> None:
        """Take the next rows of every array; they are copied.

        Args:
            arrays: The same number of rows, any, of every array of the layout.
        Raises:
            StoreError: If the arrays are not those of the layout, there are more rows than image ids, or the rows
                before could not be written.
        """
        blocks = {name: np.asarray(array) for name, array in arrays.items()}
        n_rows = self._check(blocks)
        done = 0
        while done < n_rows:
            at = self._n_buffered
            n_taken = min(n_rows - done, self._shard_rows - at)
            for name, buffer in self._buffers.items():
                buffer[at : at + n_taken] = blocks[name][done : done + n_taken]
            done += n_taken
            self._n_buffered += n_taken
            if self._n_buffered == self._shard_rows:
                self._hand_over()

    def finish(self) -> dict[str, str]:
        """Wait until everything is written; returns name and SHA-256 of every file.

        Raises:
            StoreError: If rows are missing.
        """
        n_given = self._n_written + self._n_buffered
        if n_given != self._n_rows:
            raise StoreError(
                f"{self._backend.label}: {n_given} rows for {self._n_rows} image ids; nothing of it was kept"
            )
        if self._n_buffered:
            self._hand_over()
        self._wait()
        with self._backend.translate_errors():
            self._group.update_attributes(self.attributes)
        return self._files.checksums

    def close(self) -> None:
        """End the thread; what it is writing is finished, and nothing else."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _hand_over(self) -> None:
        """Give the buffered rows to the thread, after those before them."""
        self._wait()
        rows = slice(self._n_written, self._n_written + self._n_buffered)
        full = {name: buffer[: self._n_buffered] for name, buffer in self._buffers.items()}
        self._pending = self._thread.submit(self._write, rows, full)
        self._n_written, self._n_buffered = rows.stop, 0
        self._buffers = self._empty_buffers()

    def _write(self, rows: slice, blocks: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, block in blocks.items():
            self._arrays[name][rows] = block

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            with self._backend.translate_errors():
                pending.result()

    def _empty_buffers(self) -> dict[str, npt.NDArray[Any]]:
        n_rows = min(self._shard_rows, self._n_rows - self._n_written)
        return {name: np.empty((n_rows, *spec.shape), spec.dtype) for name, spec in self._layout.items()}

    def _create(self, name: str, spec: ArraySpec) -> "zarr.Array[Any]":
        return self._group.create_array(
            name,
            shape=(self._n_rows, *spec.shape),
            dtype=np.dtype(spec.dtype),
            chunks=(1, *spec.shape),
            shards=(self._shard_rows, *spec.shape),
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            config={"write_empty_chunks": True},
        )

    def _check(self, blocks: Mapping[str, npt.NDArray[Any]]) -> int:
        """Number of rows, surely of the right arrays."""
        where = self._backend.label
        if set(blocks) != set(self._layout):
            raise StoreError(f"{where}: rows of {', '.join(blocks)} came where {', '.join(self._layout)} are needed")
        n_rows = len(next(iter(blocks.values())))
        for name, spec in self._layout.items():
            expected, dtype = (n_rows, *spec.shape), np.dtype(spec.dtype)
            if blocks[name].shape != expected or blocks[name].dtype != dtype:
                came = f"{blocks[name].dtype} of shape {blocks[name].shape}"
                raise StoreError(f"{where}: rows of {name!r} are {came}, not {dtype} of shape {expected}")
        n_given = self._n_written + self._n_buffered + n_rows
        if n_given > self._n_rows:
            raise StoreError(f"{where}: {n_given} rows for {self._n_rows} image ids")
        return n_rows


@contextmanager
def new_store(
    path: str | Path,
    layout: Mapping[str, ArraySpec],
    image_ids: Sequence[str],
    attributes: Mapping[str, Any],
    *,
    url: str | None = None,
) -> Iterator[StoreWriter]:
    """Write a store block by block; it is sealed when the `with` block ends, and nothing is left if that fails.

    Files are forced to the disk under a hidden name and renamed into place; the manifest comes last.

    Args:
        path: Folder to create, `<name>.zarr`, or its manifest, `<name>.json`, which stands beside it.
        layout: Arrays of the store; axis 0, which runs over images, comes on top.
        image_ids: Unique id of every row.
        attributes: JSON-serialisable record of how the arrays were made; more may be added to `writer.attributes`.
        url: `s3://bucket/prefix` below which the arrays go instead of beside the manifest, which then says where.
    Raises:
        StoreError: If rows are missing when the block ends, or the disk refuses (full, quota, read-only).
    """
    if not image_ids or not layout:
        raise StoreError(f"{path}: a store needs at least one image and one array")
    manifest = manifest_path(path)
    backend = new_backend(manifest, url)
    writer = None
    try:
        with translate_oserror(manifest):
            manifest.unlink(missing_ok=True)
            remove_leftovers(manifest, sole_writer=True)
        json.dumps(dict(attributes))  # fails now, not after the long job
        with backend.translate_errors():
            writer = StoreWriter(backend, layout, image_ids, attributes)
        yield writer
        checksums = writer.finish()
        with backend.translate_errors():
            marks = backend.commit(checksums)
        write_manifest(path, backend, writer.attributes, checksums, marks)
    except BaseException:
        if writer is not None:
            writer.close()
        backend.discard()
        raise
    writer.close()
    backend.retire()


def write_store(
    path: str | Path,
    arrays: Mapping[str, Any],
    image_ids: Sequence[str],
    attributes: Mapping[str, Any],
    *,
    url: str | None = None,
) -> None:
    """Write and seal a store whose arrays are at hand; nothing is left unless all of it could be written.

    Args:
        path: Folder to create, `<name>.zarr`, or its manifest, `<name>.json`, which stands beside it.
        arrays: Arrays whose axis 0 runs over images, as many as `image_ids`; NumPy or zarr.
        image_ids: Unique id of every row.
        attributes: JSON-serialisable record of how the arrays were made.
        url: As for `new_store`.
    Raises:
        StoreError: If the number of rows and ids differ, or the disk refuses.
    """
    for name, array in arrays.items():
        if array.shape[0] != len(image_ids):
            raise StoreError(f"{path}: array {name!r} has {array.shape[0]} rows for {len(image_ids)} image ids")
    layout = {name: ArraySpec(tuple(array.shape[1:]), array.dtype) for name, array in arrays.items()}
    with new_store(path, layout, image_ids, attributes, url=url) as writer:
        for rows in iterate_blocks(len(image_ids), rows_per_shard(layout)):
            writer.append({name: array[rows] for name, array in arrays.items()})


def rows_per_shard(layout: Mapping[str, ArraySpec]) -> int:
    """Rows of one shard: at most 64, fewer where they would have more than 256 MB, at least one."""
    return max(1, min(ROWS_PER_SHARD, BYTES_PER_SHARD // max(1, sum(spec.row_bytes for spec in layout.values()))))
