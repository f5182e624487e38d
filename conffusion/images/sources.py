"""Where image files come from: a folder, or an archive of one that is read in place and never unpacked to disk."""

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import BinaryIO, Literal, Protocol, TypeAlias

from conffusion.errors import DataError
from conffusion.images.zarr_file import is_zarr_folder

COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

Read = Callable[[], bytes]  # gives the content of one member of an archive; safe in several threads


@dataclass(frozen=True)
class Member:
    """A file of an archive, with what reading needs of a path.

    Attributes:
        archive: The archive.
        name: Path in it, with `/`.
        read: Gives the content.
    """

    archive: Path
    name: str
    read: Read

    def __str__(self) -> str:
        """`celeba.zip: img/3.jpg`."""
        return f"{self.archive}: {self.name}"

    @cached_property
    def _content(self) -> bytes:
        return self.read()

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """The content, as a whole in memory."""
        return BytesIO(self._content)

    def is_dir(self) -> bool:
        """Never: folders of archives are no members."""
        return False

    def stat(self) -> os.stat_result:
        """That of the archive: while it stays, so does the content."""
        return self.archive.stat()


Location: TypeAlias = Path | Member


class Source(Protocol):
    """Files below one root, named by their path below it with `/`; all methods are safe in several threads."""

    def files(self) -> list[str]:
        """All files, in no particular order; a zarr array or group counts as one."""

    def at(self, file: str) -> Location:
        """A file; FileNotFoundError, now or when it is opened, if there is none."""

    def describe(self, file: str) -> str:
        """The file as messages name it."""


@dataclass(frozen=True)
class FolderSource:
    """Files of a folder and its subfolders; links are followed, but what several names lead to is there once."""

    root: Path

    def files(self) -> list[str]:
        """All files and zarr folders.

        Raises:
            DataError: If a folder cannot be listed.
        """
        found: list[str] = []
        linked_files: list[str] = []
        folders: list[tuple[Path, str]] = [(self.root, "")]
        links: list[tuple[Path, str]] = []
        visited: set[Path] = set()
        while folders or links:
            folder, below = folders.pop() if folders else links.pop(0)
            identity = folder.resolve()
            if identity in visited:
                continue
            visited.add(identity)
            for entry in _entries(folder):
                name, is_link = below + entry.name, entry.is_symlink()
                target = Path(entry) if is_link else entry  # of a link to itself, only a path says that it is nothing
                if target.is_dir() and not is_zarr_folder(Path(entry)):
                    # What lies here comes before what links lead to, whatever their names.
                    (links if is_link else folders).append((Path(entry), f"{name}/"))
                elif target.is_dir() or target.is_file():
                    (linked_files if is_link else found).append(name)
        if linked_files:
            known = {(self.root / name).resolve() for name in found}
            targets = {(self.root / name).resolve(): name for name in reversed(linked_files)}
            found += [name for target, name in targets.items() if target not in known]
        return found

    def at(self, file: str) -> Path:
        """Its path."""
        return self.root / file

    def describe(self, file: str) -> str:
        """Its path."""
        return str(self.root / file)


@dataclass(frozen=True)
class ArchiveSource:
    """Members of an archive; those with an absolute name or `..` in it are passed over."""

    path: Path
    members: Mapping[str, Read]

    def files(self) -> list[str]:
        """All members."""
        return list(self.members)

    def at(self, file: str) -> Member:
        """The member; FileNotFoundError if there is none."""
        if file not in self.members:
            raise FileNotFoundError(file)
        return Member(self.path, file, self.members[file])

    def describe(self, file: str) -> str:
        """`celeba.zip: img/3.jpg`."""
        return f"{self.path}: {file}"


def open_source(path: str | Path) -> Source:
    """The folder or archive at `path`, which ends in .zip or .tar if it is an archive.

    Raises:
        DataError: If there is nothing, something else, a compressed tar archive, or a damaged archive.
    """
    root, key = Path(path), f"dataset.folder.path = {path}"
    if root.is_dir():
        return FolderSource(root)
    if not root.exists():
        raise DataError(f"{key}: does not exist; check the path")
    name = root.name.lower()
    if name.endswith(COMPRESSED_TARS):
        raise DataError(
            f"{key}: a compressed tar archive can only be read from start to end; extract it, or pack the images again "
            "as .zip or as .tar without compression"
        )
    if not name.endswith((".zip", ".tar")):
        raise DataError(f"{key}: is neither a folder nor a .zip or .tar archive; check the path")
    with _naming_archive(root):
        members = _zip_members(root) if name.endswith(".zip") else _tar_members(root)
        return ArchiveSource(root, dict(_safe_names(members)))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its name and permissions") from error


def _zip_members(path: Path) -> Iterator[tuple[str, Read]]:
    archive, turn = zipfile.ZipFile(path), Lock()  # stays open as long as one of the members is in use
    for entry in archive.infolist():
        if not entry.is_dir():
            yield entry.filename, partial(_read_zipped, archive, turn, entry)


def _read_zipped(archive: zipfile.ZipFile, turn: Lock, entry: zipfile.ZipInfo) -> bytes:
    """Content of a member. Archives can be read by several threads, but count their open members without a lock."""
    with turn:
        member = archive.open(entry)
    try:
        return member.read()
    finally:
        with turn:
            member.close()


def _tar_members(path: Path) -> Iterator[tuple[str, Read]]:
    """Regular files of an uncompressed tar archive; links and sparse files are passed over."""
    with tarfile.open(path, "r:") as archive:
        members = archive.getmembers()
    # The reader takes whatever is no header for the end of the archive; only a block of zeros is one.
    if _read_part(path, archive.offset, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataError(f"is cut or damaged at byte {archive.offset}")
    for member in members:
        if member.isreg() and not member.issparse():
            yield member.name, partial(_read_part, path, member.offset_data, member.size)


def _read_part(path: Path, offset: int, n_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(n_bytes)


@contextmanager
def _naming_archive(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while the list of members is read into a DataError that starts with the path."""
    try:
        yield
    # A damaged list raises half a dozen unrelated types, and all of them mean the same to the user.
    except Exception as error:
        raise DataError(f"{path}: cannot be read as an archive ({error}); download or pack it again") from error


def _safe_names(members: Iterable[tuple[str, Read]]) -> Iterator[tuple[str, Read]]:
    """Members below the root of the archive, `./img//3.jpg` as `img/3.jpg`; of equal names the last one counts."""
    for name, read in members:
        path = PurePosixPath(name)
        if not path.is_absolute() and ".." not in path.parts:
            yield path.as_posix(), read
