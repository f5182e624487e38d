"""Which files are images, for every command and for the workflow, and what the results of each are called."""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from conffusion.errors import DataError
from conffusion.images.sources import FolderSource, Source
from conffusion.images.zarr_file import is_zarr_folder
from conffusion.store import write_text

LOGGER = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".bmp")
KINDS = ", ".join((*SUFFIXES, ".zarr"))
RESULT_MARKER = ".conffusion"  # a folder with it holds results, complete or not
RESULT_MARKERS = (RESULT_MARKER, "interval.json")  # the second alone: results of older versions
RESULT_FILES = ("risk_curve.png",)  # results that lie in a folder of any content
HIDDEN = (".", "__MACOSX")  # starts of names


@dataclass(frozen=True)
class Listing:
    """Files below one root, told apart.

    Attributes:
        images: Images, as sorted paths below the root with `/`.
        other_kinds: Number of files of other kinds, by their suffix.
        n_results: Number of files that are results of this package; they are passed over.
    """

    images: Sequence[str]
    other_kinds: Mapping[str, int]
    n_results: int

    def passed_over(self) -> str:
        """What else is there, in words; empty if nothing is."""
        parts = []
        if self.other_kinds:
            names = ", ".join(f"{count} {kind or 'without a suffix'}" for kind, count in self.other_kinds.items())
            parts.append(f"{_files(sum(self.other_kinds.values()))} of other kinds ({names})")
        if self.n_results:
            parts.append(f"{_files(self.n_results)} in folders of results of conffusion")
        return " and ".join(parts)


def list_source(source: Source, pattern: str = "**/*") -> Listing:
    """The images of a folder or archive.

    An image is a file with a suffix of `SUFFIXES`, or a zarr array or group in a folder. Hidden files and folders count
    for nothing, and results of this package are no images.

    Args:
        source: The folder or archive.
        pattern: Glob for the paths below it; `**` stands for any number of folders.
    """
    names = source.files()
    results = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in RESULT_MARKERS}
    wanted = pattern.split("/")
    images, others, n_results = [], Counter[str](), 0
    for name in sorted(names):
        path = PurePosixPath(name)
        if any(part.startswith(HIDDEN) for part in path.parts) or not _matches(path.parts, wanted):
            continue
        if path.name in RESULT_FILES or (results and _is_below(path, results)):
            n_results += 1
        elif path.suffix.lower() in SUFFIXES or source.at(name).is_dir():
            images.append(name)
        else:
            others[path.suffix.lower()] += 1
    return Listing(images, dict(others.most_common()), n_results)


def list_images(paths: Sequence[str | Path]) -> list[Path]:
    """The images that files and folders on a command line stand for.

    A file is taken whatever its name; of a folder, what `list_source` finds. Further names of a file that is there
    already are passed over; files of other kinds are counted in a warning.

    Returns:
        Sorted paths, each as given or below a folder as given.
    Raises:
        DataError: If a path does not exist, cannot be listed, or stands for no image.
    """
    found: dict[Path, Path] = {}  # by what they resolve to
    for path in map(Path, paths):
        for file in _images_of(path):
            found.setdefault(file.resolve(), file)
    if not found:
        raise DataError("no images: name at least one file or folder")
    return sorted(found.values())


def mark_results(folder: Path) -> None:
    """Mark a folder as one of results, before the first of them is written; it is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / RESULT_MARKER).exists():
        write_text(folder / RESULT_MARKER, "This folder holds results of conffusion; its images are not read again.\n")


def output_names(files: Iterable[str | Path], given: Sequence[str | Path] = ()) -> dict[Path, str]:
    """Folder of each image's results: its path below the folder that all have in common, without the suffix.

    Letters with accents are composed (NFC), so that both spellings of a name are one name.

    Args:
        files: The images.
        given: The files and folders that were named and stand for them; a single folder is then the common one, however
            the images lie in it.
    Raises:
        DataError: If two images would share a folder, as `a.png` and `a.tif` do; the message names both.
    """
    absolute = {Path(file): Path(os.path.abspath(file)) for file in files}
    if not absolute:
        return {}
    folders = [path if _is_plain_folder(path) else path.parent for path in map(Path, given)] or [
        path.parent for path in absolute.values()
    ]
    root = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    names: dict[Path, str] = {}
    owners: dict[str, Path] = {}
    for file, path in absolute.items():
        name = unicodedata.normalize("NFC", path.relative_to(root).with_suffix("").as_posix())
        if name in owners:
            raise DataError(
                f"{owners[name]} and {file} would both write to the folder {name!r}; rename one or predict them apart"
            )
        owners[name] = file
        names[file] = name
    for name, file in owners.items():
        folder, _, last = name.rpartition("/")
        if last.isdecimal() and folder in owners:
            raise DataError(
                f"{owners[folder]} and {file} would meet in the folder {folder!r}, as a stack numbers its pages; "
                "rename one or predict them apart"
            )
    return names


def _images_of(path: Path) -> list[Path]:
    try:
        path.stat()
        if not _is_plain_folder(path):
            return [path]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file or folder") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be listed ({error.strerror}); check its name and permissions") from error
    listing = list_source(FolderSource(path))
    passed_over = listing.passed_over()
    if not listing.images:
        found = f", only {passed_over}" if passed_over else ""
        raise DataError(f"{path}: no images below this folder{found}; expected files with a suffix of {KINDS}")
    if passed_over:
        LOGGER.warning("%s: passed over: %s", path, passed_over)
    return [path / name for name in listing.images]


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not is_zarr_folder(path)


def _is_below(path: PurePosixPath, folders: set[str]) -> bool:
    return any(("" if parent == PurePosixPath() else str(parent)) in folders for parent in path.parents)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a glob, both split at `/`; `**` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[k:], pattern[1:]) for k in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
