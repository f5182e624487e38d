"""Sizes of images in files that were checked before, so that 30,000 headers are read once and not by every command.

They are kept in the folder that the environment variable CONFFUSION_CACHE names (`~/.cache/conffusion` without one; an
empty value keeps none), one file for each folder or archive of photographs. They count for a photograph as long as its
length and time of change stay the same.
"""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from conffusion.errors import StoreError
from conffusion.store.cache import cache_folder
from conffusion.store.files import read_json, write_json

LOGGER = logging.getLogger(__name__)
VERSION = 2  # of the checks that a photograph has passed when it is listed

Stamp: TypeAlias = tuple[int, int]  # bytes and time of change in nanoseconds
Size: TypeAlias = tuple[int, int]  # height and width in pixels


def read_known_sizes(root: str | Path) -> dict[tuple[str, Stamp], list[Size]]:
    """Sizes of the images of every file of a folder or archive that was checked before, by its name and stamp."""
    path = _list_path(root)
    if path is None or not path.is_file():
        return {}
    try:
        return {
            (file, (n_bytes, time)): [(height, width) for height, width in sizes]
            for file, (n_bytes, time, sizes) in read_json(path).items()
        }
    except (StoreError, AttributeError, ValueError, TypeError):  # damaged: made again
        return {}


def write_known_sizes(root: str | Path, sizes: Mapping[tuple[str, Stamp], Sequence[Size]]) -> None:
    """Remember the sizes; where they cannot be written, nothing is lost but time."""
    path = _list_path(root)
    if path is None:
        return
    try:
        write_json(path, {file: [*stamp, found] for (file, stamp), found in sizes.items()})
    except StoreError as error:
        LOGGER.info("%s: the sizes of the images are not kept for the next command (%s)", path, error)


def _list_path(root: str | Path) -> Path | None:
    folder = cache_folder()
    digest = hashlib.sha256(os.fsencode(Path(root).resolve())).hexdigest()[:16]
    return folder / f"sizes-{VERSION}-{digest}.json" if folder else None
