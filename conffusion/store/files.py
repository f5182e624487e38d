"""Files that are either complete or absent: temporary name, flush to disk, rename."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conffusion.errors import StoreError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it into place when the block succeeds, remove it when it fails.

    Works for files and for folders. A folder that stands at `path` already is replaced.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        _flush(temporary)
        if final.is_dir():
            _remove(final)
        os.replace(temporary, final)
        _remove(temporary)  # still there if both are names of one file
    except BaseException:
        _remove(temporary)
        raise


def remove_leftovers(path: str | Path) -> None:
    """Remove what killed writers of `path` left under temporary names; nobody may be writing it now."""
    for leftover in Path(path).parent.glob(f".{Path(path).name}.*.tmp"):
        _remove(leftover)


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


def _flush(path: Path) -> None:
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
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
