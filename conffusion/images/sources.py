"""Where image files come from: a folder, or an archive of one that is read in place and never unpacked to disk."""

import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import BinaryIO, Protocol

from conffusion.errors import DataError

COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

Read = Callable[[], bytes]  # gives the content of one member of an archive; safe in several threads


class Source(Protocol):
    """Files below one root, named by their path below it with `/`; all methods are safe in several threads."""

    def files(self, pattern: str) -> list[str]:
        """Files that match a glob, in no particular order."""

    def open(self, file: str) -> BinaryIO:
        """A file for reading, with random access; FileNotFoundError if there is none."""

    def describe(self, file: str) -> str:
        """The file as messages name it."""

    def stamp(self, file: str) -> tuple[int, int]:
        """Bytes and time of change (ns) of what holds the file: while they stay, so does its content."""


@dataclass(frozen=True)
class FolderSource:
    """Files of a folder and its subfolders."""

    root: Path

    def files(self, pattern: str) -> list[str]:
        """Files that match a glob, in no particular order."""
        return [file.relative_to(self.root).as_posix() for file in self.root.glob(pattern) if file.is_file()]

    def open(self, file: str) -> BinaryIO:
        """A file for reading; FileNotFoundError if there is none."""
        return (self.root / file).open("rb")

    def describe(self, file: str) -> str:
        """The path of the file."""
        return str(self.root / file)

    def stamp(self, file: str) -> tuple[int, int]:
        """Bytes and time of change of the file."""
        return _stamp(self.root / file)


@dataclass(frozen=True)
class ArchiveSource:
    """Members of an archive; those with an absolute name or `..` in it are passed over."""

    path: Path
    members: Mapping[str, Read]

    def files(self, pattern: str) -> list[str]:
        """Members that match a glob."""
        wanted = pattern.split("/")
        return [name for name in self.members if _matches(name.split("/"), wanted)]

    def open(self, file: str) -> BinaryIO:
        """A member for reading, as a whole in memory; FileNotFoundError if there is none."""
        if file not in self.members:
            raise FileNotFoundError(file)
        return BytesIO(self.members[file]())

    def describe(self, file: str) -> str:
        """`celeba.zip: img/3.jpg`."""
        return f"{self.path}: {file}"

    def stamp(self, file: str) -> tuple[int, int]:
        """Bytes and time of change of the archive."""
        return _stamp(self.path)


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
    _check_tar_end(path, archive.offset)
    for member in members:
        if member.isreg() and not member.issparse():
            yield member.name, partial(_read_part, path, member.offset_data, member.size)


def _check_tar_end(path: Path, offset: int) -> None:
    """The reader takes whatever is no header for the end of the archive; only a block of zeros is one."""
    if _read_part(path, offset, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataError(f"is cut or damaged at byte {offset}")


def _read_part(path: Path, offset: int, n_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(n_bytes)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


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


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a glob, both split at `/`; `**` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[k:], pattern[1:]) for k in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
