"""Files that are either complete or absent: temporary name, flush to disk, rename."""

import errno
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from conffusion.errors import StoreError

ABANDONED_AFTER_SECONDS = 3600  # without a change: a leftover of another host, whose processes cannot be asked
_REMEDIES = {
    errno.ENOSPC: "free some space on that disk and run again",
    errno.EDQUOT: "the disk quota is used up: free some of it and run again",
    errno.EFBIG: "files may not grow that large here: raise the limit (ulimit -f) and run again",
    errno.EROFS: "the file system is read-only: choose a folder that can be written",
    errno.EACCES: "permission is lacking: make the folder writable, or choose another",
    errno.EPERM: "permission is lacking: make the folder writable, or choose another",
}
_ONLY_WRITERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it into place when the block succeeds, remove it when it fails.

    Works for files and for folders. A folder that stands at `path` already is replaced. What a killed process left of
    an earlier attempt, `.<name>~<host>~<process>.tmp`, is removed (see `remove_leftovers`).

    Raises:
        StoreError: If the disk is full, the quota used up, or the folder not writable.
    """
    final = Path(path)
    with translate_oserror(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(final)
        remove_leftovers(final)
    try:
        with translate_oserror(final, only=_ONLY_WRITERS, own=temporary):
            yield temporary
        with translate_oserror(final):
            move_into_place(temporary, final)
    except BaseException:
        with suppress(OSError):
            remove(temporary)
        raise


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` in UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Content of a JSON file.

    Raises:
        StoreError: If the file is missing or truncated.
    """
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path}: cannot be read as JSON ({error}); delete it and rerun the rule that makes it"
        ) from error


@contextmanager
def translate_oserror(path: str | Path, only: tuple[int, ...] | None = None, own: Path | None = None) -> Iterator[None]:
    """Turn what the operating system has against writing `path` into a StoreError with the reason and the remedy.

    Args:
        path: What is being written, for the message.
        only: Error numbers to turn; None: all.
        own: A file or folder for which lack of permission is turned too, though `only` does not name it.
    """
    try:
        yield
    except OSError as error:
        is_own = own is not None and isinstance(error, PermissionError) and _is_below(error.filename, own)
        if only is not None and error.errno not in only and not is_own:
            raise
        remedy = _REMEDIES.get(error.errno or 0, "check free space, quota and permissions")
        reason = error.strerror or str(error)
        raise StoreError(f"{path}: cannot be written ({reason}); {remedy}; nothing of it was kept") from error


def temporary_path(final: Path) -> Path:
    """The hidden sibling that this process writes before it renames it to `final`."""
    return final.with_name(f".{final.name}~{socket.gethostname()}~{os.getpid()}.tmp")


def remove_leftovers(final: Path, *, sole_writer: bool = False) -> None:
    """Remove what earlier attempts at `final` left behind.

    That of this process and of dead processes of this host goes at once. That of another host, whose processes cannot
    be asked, goes if nothing in it has changed for an hour.

    Args:
        final: The file or folder to be written.
        sole_writer: Nobody else may be writing `final` now, as for the output of a job: everything goes. A process
            that outlived its node and still writes then fails, instead of the new one.
    """
    for leftover in final.parent.glob(".*~*~*.tmp"):
        name, host, process = leftover.name[1:].removesuffix(".tmp").rsplit("~", 2)
        if name != final.name:
            continue
        if host == socket.gethostname():
            abandoned = int(process) == os.getpid() or not is_alive(int(process))
        else:
            abandoned = time.time() - _last_change(leftover) > ABANDONED_AFTER_SECONDS
        if sole_writer or abandoned:
            remove(leftover)


def move_into_place(temporary: Path, final: Path) -> None:
    """Flush a file or folder to the disk, rename it over `final`, and flush that too."""
    flush(temporary)
    if final.is_dir():
        remove(final)
    os.replace(temporary, final)
    remove(temporary)  # still there if both are names of one file
    fsync(final.parent)


def flush(path: Path) -> None:
    """Force a file, or a folder with all that is in it, to the disk."""
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        fsync(file)


def fsync(path: Path) -> None:
    """Force one file, or the names in one folder, to the disk; some file systems cannot do so for folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, which outlives the first; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _is_below(name: Any, folder: Path) -> bool:
    """Whether an error's file is `folder` or in it."""
    return isinstance(name, str | bytes | os.PathLike) and Path(os.fsdecode(name)).is_relative_to(folder)


def is_alive(process: int) -> bool:
    """Whether a process of this host runs, of any user."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _last_change(path: Path) -> float:
    """Time of the last change in a file or folder; 0 where it vanished meanwhile."""
    times = [0.0]
    for file in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):
            times.append(file.stat().st_mtime)
    return max(times)
