"""Which files a command line means, and what the results of each are called."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from conffusion.errors import DataError
from conffusion.images.reading import SUFFIXES
from conffusion.images.zarr_file import is_zarr_folder

RESULT_MARKER = "interval.json"  # a folder with it holds results, not images to restore


def list_images(paths: Sequence[str | Path]) -> list[Path]:
    """The images that files and folders on a command line stand for.

    A file is taken whatever its name; of a folder, all files below it with the suffix of an image, and zarr folders.
    Hidden files and folders and links to folders are passed over, and so is every further name of a file that is there
    already.

    Returns:
        Sorted paths, each as given or below a folder as given.
    Raises:
        DataError: If a path does not exist, cannot be listed, or stands for no image.
    """
    found: dict[Path, Path] = {}  # by what they resolve to
    for path in map(Path, paths):
        files = list(_files_of(path))
        if not files:
            kinds = ", ".join((*SUFFIXES, ".zarr"))
            raise DataError(f"{path}: no images below this folder; expected files with a suffix of {kinds}")
        for file in files:
            found.setdefault(file.resolve(), file)
    if not found:
        raise DataError("no images: name at least one file or folder")
    return sorted(found.values())


def output_names(files: Iterable[str | Path], given: Sequence[str | Path] = ()) -> dict[Path, str]:
    """Folder of each image's results: its path below the folder that all have in common, without the suffix.

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
    places = [path if _is_plain_folder(path) else path.parent for path in map(Path, given)] or [
        path.parent for path in absolute.values()
    ]
    root = os.path.commonpath([os.path.abspath(place) for place in places])
    names: dict[Path, str] = {}
    owners: dict[str, Path] = {}
    for file, path in absolute.items():
        name = path.relative_to(root).with_suffix("").as_posix()
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


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not is_zarr_folder(path)


def _files_of(path: Path) -> Iterator[Path]:
    try:
        path.stat()
        is_folder = _is_plain_folder(path)
        entries = sorted(path.iterdir()) if is_folder else []
        if any(entry.name == RESULT_MARKER for entry in entries):
            return  # a prediction made earlier
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file or folder") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be listed ({error.strerror}); check its name and permissions") from error
    if not is_folder:
        yield path
    for entry in entries:
        is_further_folder = entry.is_dir() and not entry.is_symlink()  # a link may lead back up
        is_image = entry.is_file() and entry.suffix.lower() in SUFFIXES
        if (is_further_folder or is_image) and not entry.name.startswith("."):
            yield from _files_of(entry)
