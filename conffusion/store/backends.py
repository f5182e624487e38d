"""Where the files of a store are: a folder beside its manifest, or what a URL names (`MODULES`)."""

import hashlib
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from zarr.abc.store import Store
from zarr.storage import LocalStore

from conffusion.errors import StoreError
from conffusion.store.checksums import FlushedLocalStore
from conffusion.store.files import move_into_place, remove, remove_leftovers, temporary_path, translate_oserror

# Modules with the backends of stores that a URL names, by how the URL starts; imported when they are needed. Each has a
# class `backend(url)`, a function `new_backend(url, manifest)` and `read_errors()`: exceptions that reading may raise.
MODULES: Mapping[str, str] = MappingProxyType({"s3://": "conffusion.contrib.s3"})
FOREIGN_FILES = frozenset({".snakemake_timestamp"})


class Backend(Protocol):
    """Files of one store, by name below its root."""

    @property
    def label(self) -> str:
        """What the manifest calls it: the name of the folder, or the URL."""

    def translate_errors(self) -> AbstractContextManager[None]:
        """Turns what the backend has against being written into a StoreError with the reason and the remedy."""

    def start(self) -> Store:
        """A fresh root to write in, which no reader takes for a store."""

    def commit(self, checksums: Mapping[str, str]) -> Mapping[str, str]:
        """Make what was written last, and known to all that have the manifest.

        Args:
            checksums: Name to SHA-256 of all that was written.
        Returns:
            Name to a mark by which `altered` may recognise a file without reading it; empty without such marks.
        Raises:
            StoreError: If other files are there than were written.
        """

    def discard(self) -> None:
        """Remove what this attempt wrote, quietly."""

    def retire(self) -> None:
        """Remove what earlier attempts wrote, now that the manifest names this one."""

    def reader(self) -> Store:
        """The files, to be read."""

    def altered(self, checksums: Mapping[str, str], marks: Mapping[str, str]) -> str | None:
        """What is wrong with the first file that is missing or not as recorded; None if all are as they were."""


class FolderBackend:
    """A folder of the file system."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = temporary_path(path)
        self._is_final = False

    @property
    def label(self) -> str:
        """Name of the folder, which stands beside the manifest."""
        return self._path.name

    def translate_errors(self) -> AbstractContextManager[None]:
        """Turns operating system errors into StoreErrors."""
        return translate_oserror(self._path)

    def start(self) -> Store:
        """A hidden folder beside the final one; an older store and leftovers of earlier attempts are removed."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._path, sole_writer=True)
        remove(self._path)
        return FlushedLocalStore(self._temporary)

    def commit(self, checksums: Mapping[str, str]) -> Mapping[str, str]:
        """Rename the hidden folder into place, forced to the disk."""
        check_complete(self._path, checksums, _names(self._temporary))
        move_into_place(self._temporary, self._path)
        self._is_final = True
        return {}

    def discard(self) -> None:
        """Remove the hidden folder, or the final one if it has become that."""
        with suppress(OSError):
            remove(self._path if self._is_final else self._temporary)

    def retire(self) -> None:
        """Nothing to do: the rename replaced what was there."""

    def reader(self) -> Store:
        """The files, to be read."""
        return LocalStore(self._path, read_only=True)

    def altered(self, checksums: Mapping[str, str], marks: Mapping[str, str]) -> str | None:
        """Reads every file, in small pieces."""
        if not self._path.is_dir():
            return f"{self._path}: no such store"
        for name, expected in checksums.items():
            file = self._path / name
            if not file.is_file():
                return f"{file}: is missing"
            with file.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != expected:
                    return f"{file}: is truncated or altered"
        return None


def backend_for(store: str | Path, label: str | None = None) -> Backend:
    """The backend that a manifest calls `label`: that of a URL, or else the folder beside the manifest."""
    module = _module_of(label or "")
    return FolderBackend(Path(store).with_suffix(".zarr")) if module is None else module.backend(label)


def new_backend(manifest: Path, url: str | None) -> Backend:
    """Where a new store of a manifest goes: below a URL, or else into the folder beside the manifest.

    Raises:
        StoreError: If nothing is known about such a URL.
    """
    module = _module_of(url or "")
    if module is None and url:
        raise StoreError(f"{url}: stores can only be kept below a URL that starts with {' or '.join(MODULES)}")
    return FolderBackend(manifest.with_suffix(".zarr")) if module is None else module.new_backend(url, manifest)


def read_errors() -> tuple[type[Exception], ...]:
    """What reading from a backend of a URL may raise beside errors of the operating system."""
    used = (sys.modules[name] for name in MODULES.values() if name in sys.modules)
    return tuple(error for module in used for error in module.read_errors())


def _module_of(url: str) -> Any:
    names = [name for start, name in MODULES.items() if url.startswith(start)]
    return import_module(names[0]) if names else None


def check_complete(where: object, checksums: Mapping[str, str], names: set[str]) -> None:
    """Make sure that what was written is there, and nothing else.

    Raises:
        StoreError: If it is not: somebody else removed or wrote files there.
    """
    if odd := sorted(names ^ set(checksums)):
        raise StoreError(f"{where}: {odd[0]} vanished or appeared while it was written; is another job writing it too?")


def _names(root: Path) -> set[str]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name not in FOREIGN_FILES)
    return {path.relative_to(root).as_posix() for path in files}
