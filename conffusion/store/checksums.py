"""Zarr storage classes that note what is written, force it to the disk, and miss what has vanished."""

import asyncio
import hashlib
from collections.abc import Collection, Iterable
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from conffusion.store.files import fsync


class ChecksumStore(WrapperStore[Store]):
    """Passes everything on and notes the SHA-256 of what was last written under each name.

    Attributes:
        checksums: Name below the root to hexadecimal SHA-256.
    """

    def __init__(self, store: Store, checksums: dict[str, str] | None = None) -> None:
        super().__init__(store)
        self.checksums: dict[str, str] = {} if checksums is None else checksums

    def _with_store(self, store: Store) -> "ChecksumStore":
        return ChecksumStore(store, self.checksums)

    async def set(self, key: str, value: Buffer) -> None:
        """Write, and note the checksum."""
        self.checksums[key] = await asyncio.to_thread(_sha256, value)
        await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write what is not there yet."""
        if not await self._store.exists(key):
            await self.set(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        await asyncio.gather(*(self.set(key, value) for key, value in values))

    async def delete(self, key: str) -> None:
        """Delete, and forget the checksum."""
        self.checksums.pop(key, None)
        await self._store.delete(key)


class FlushedLocalStore(LocalStore):
    """Files that are forced to the disk one by one, so that little is left to do at the end."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write one file and force it to the disk."""
        await super().set(key, value)
        await asyncio.to_thread(fsync, self.root / key)


class SealedFiles(WrapperStore[Store]):
    """Read-only view that raises where a file of the manifest is gone, for which zarr would give the fill value."""

    def __init__(self, store: Store, names: Collection[str]) -> None:
        super().__init__(store)
        self._names = names

    def _with_store(self, store: Store) -> "SealedFiles":
        return SealedFiles(store, self._names)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Content of a file, or None where there is none and the manifest knows of none."""
        found = await self._store.get(key, prototype, byte_range)
        if found is None and key in self._names:
            raise FileNotFoundError(f"{self._store}: {key} has vanished")
        return found

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Parts of files, as `get`."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))


def _sha256(value: Buffer) -> str:
    content: Any = value.as_buffer_like()
    return hashlib.sha256(content).hexdigest()
