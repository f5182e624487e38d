"""Any folder or archive of a user's images as a dataset, with rules that say which images belong together."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from conffusion.core.arrays import FloatArray
from conffusion.data.grouping import compile_pattern, groups_by_pattern, groups_by_table
from conffusion.data.known_sizes import Size, Stamp, read_known_sizes, write_known_sizes
from conffusion.data.parallel import DEFAULT_WORKERS, map_files
from conffusion.errors import ConfigError, DataError
from conffusion.images.reading import SUFFIXES, check_min_side, naming_file, read_image, read_pixels, read_size
from conffusion.images.resize import PixelArray, Resample, from_uint8, resize_pixels
from conffusion.images.sources import Source, open_source

__all__ = ["Fit", "FolderDataset", "read_image"]

LOGGER = logging.getLogger(__name__)

Fit = Literal["crop", "resize", "tile"]
_PATTERN_KEY = "dataset.folder.group_pattern"


@dataclass(frozen=True)
class FolderDataset:
    """Images of a folder and its subfolders, or of an archive; see `conffusion.images.reading` for the formats.

    Attributes:
        path: The folder, or a .zip or uncompressed .tar archive of it, which is read in place.
        image_size: Side of the square images, in pixels.
        pattern: Glob below the folder, or for the names in the archive; hidden files and files without an image suffix
            are passed over.
        fit: `crop`: the shorter edge is resized to `image_size`, then the centre is cut out. `resize`: squeezed to a
            square. `tile`: non-overlapping squares of `tile_size` source pixels on a centred grid, each resized to
            `image_size`. Images are never enlarged: smaller ones are errors.
        tile_size: Side of a tile in source pixels, at least `image_size`, which is also the default.
        max_tiles_per_image: Tiles kept per photograph, spread evenly over its grid; None keeps all.
        group_pattern: Regular expression, searched in the path below the folder (with `/`); its group named `group`, or
            else its first one, is the group of the image: a person, a photograph, a patient.
        group_csv: CSV with the columns file (path below the folder) and group, on disk. Further rows are allowed.
        resample: Filter of all resizing; see `conffusion.images.resize.resize_pixels`.
        workers: Number of threads that read and decode files; the images do not depend on it.

    Without a group rule every image is its own group, except that the tiles of one photograph form a group.

    Raises:
        ConfigError: If a setting is out of range or contradicts another.
    """

    path: str | Path
    image_size: int
    pattern: str = "**/*"
    fit: Fit = "crop"
    tile_size: int | None = None
    max_tiles_per_image: int | None = None
    group_pattern: str | None = None
    group_csv: str | Path | None = None
    resample: Resample = "bicubic"
    workers: int = field(default=DEFAULT_WORKERS, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the settings against each other; the folder itself is looked at when it is first needed."""
        if not self.pattern or Path(self.pattern).is_absolute():
            raise ConfigError(f"dataset.folder.pattern = {self.pattern!r}: must be a glob below dataset.folder.path")
        for key, known in (("fit", get_args(Fit)), ("resample", get_args(Resample))):
            if getattr(self, key) not in known:
                raise ConfigError(f"dataset.folder.{key} = {getattr(self, key)!r}: must be one of {', '.join(known)}")
        for key in ("image_size", "workers", "tile_size", "max_tiles_per_image"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"dataset.folder.{key} = {value}: must be at least 1")
            if key in ("tile_size", "max_tiles_per_image") and value is not None and self.fit != "tile":
                raise ConfigError(f"dataset.folder.{key} is only used with fit: tile, but fit is {self.fit!r}")
        if self.source_side < self.image_size:
            raise ConfigError(
                f"dataset.folder.tile_size = {self.tile_size}: must be at least image_size = {self.image_size}"
            )
        if self.group_pattern is not None and self.group_csv is not None:
            raise ConfigError("dataset.folder: give either group_pattern or group_csv, not both")
        if self.group_pattern is not None:
            compile_pattern(self.group_pattern, _PATTERN_KEY)

    @property
    def has_groups(self) -> bool:
        """Whether several images may share a group, so that the group is the unit of the guarantee."""
        return self.fit == "tile" or self.group_pattern is not None or self.group_csv is not None

    @property
    def source_side(self) -> int:
        """Smallest acceptable length of a photograph's shorter edge, in pixels."""
        return self.tile_size or self.image_size

    def table(self) -> pd.DataFrame:
        """All images, by path and then by tile; every file's header has been read, now or by an earlier command.

        Returns:
            Columns image_id (path below the folder, for tiles followed by `#` and the tile's place on the grid), group
            and source (path below the folder), all text.
        Raises:
            DataError: If there are no images, a file is damaged or too small, or a file has no group.
        """
        groups = self._groups()
        rows = [
            (image_id, groups.get(file, image_id), file)
            for file, size in zip(self.files, self._sizes(), strict=True)
            for image_id in self._image_ids(file, *size)
        ]
        return pd.DataFrame(rows, columns=["image_id", "group", "source"], dtype=str)

    def load(self, image_ids: Sequence[str]) -> FloatArray:
        """Images in the order given; consecutive tiles of one photograph read its file once.

        Returns:
            (len(image_ids), 3, image_size, image_size) float32 in [0, 1].
        Raises:
            DataError: If a file is missing or damaged, or an id does not belong to the folder.
        """
        images = np.empty((len(image_ids), 3, self.image_size, self.image_size), dtype=np.float32)
        source = self._source
        keyed = [(*self._split_id(image_id), k) for k, image_id in enumerate(image_ids)]

        def fill(rows: list[tuple[str, int, int]]) -> None:  # writes at once: each thread holds one photograph
            file = rows[0][0]
            pixels = read_pixels(source, file, min_side=self.source_side)
            with naming_file(source.describe(file)):
                for _, tile, k in rows:
                    images[k] = _to_image(self._fit(pixels, tile))

        photographs = [list(rows) for _, rows in groupby(keyed, key=lambda row: row[0])]
        map_files(fill, photographs, workers=self.workers, label=f"reading {self.path}")
        return images

    def at_side(self, side: int) -> "FolderDataset":
        """The same photographs or tiles under the same names, each reduced from its source to `side` pixels.

        Raises:
            ConfigError: If `side` is below 1 or above the side of a tile.
        """
        return replace(self, image_size=side, tile_size=self.source_side if self.fit == "tile" else None)

    @cached_property
    def _source(self) -> Source:
        return open_source(self.path)

    @cached_property
    def files(self) -> list[str]:
        """Image files below the folder, as sorted paths with `/`."""
        below = [PurePosixPath(file) for file in self._source.files(self.pattern)]
        shown = [file for file in below if not any(part.startswith((".", "__MACOSX")) for part in file.parts)]
        files = sorted({file.as_posix() for file in shown if file.suffix.lower() in SUFFIXES})
        if not files:
            raise DataError(
                f"{self.path}: no images match dataset.folder.pattern = {self.pattern!r} ({len(shown)} other files); "
                f"images end in {', '.join(SUFFIXES)}"
            )
        if len(files) < len(shown):
            LOGGER.warning("%s: %d files of other types are passed over", self.path, len(shown) - len(files))
        return files

    def _groups(self) -> dict[str, str]:
        """Group of each file; empty where no rule joins images."""
        if self.group_pattern is not None:
            remedy = "change the expression or dataset.folder.pattern"
            return groups_by_pattern(
                self.files, self.group_pattern, self._source.describe, key=_PATTERN_KEY, remedy=remedy
            )
        if self.group_csv is not None:
            return groups_by_table(self.files, self.group_csv, self.path)
        return {file: file for file in self.files} if self.fit == "tile" else {}

    def _sizes(self) -> list[Size]:
        """(height, width) of every photograph as stored, surely large enough."""
        source, known = self._source, read_known_sizes(self.path)

        def find(file: str) -> tuple[tuple[str, Stamp], Size]:
            with naming_file(source.describe(file)):
                key = (file, source.stamp(file))
            size = known.get(key) or read_size(source, file)
            with naming_file(source.describe(file)):
                check_min_side(*size, self.source_side)
            return key, size

        found = map_files(find, self.files, workers=self.workers, label=f"checking {self.path}")
        if any(key not in known for key, _ in found):
            write_known_sizes(self.path, {**known, **dict(found)})
        return [size for _, size in found]

    def _image_ids(self, file: str, height: int, width: int) -> list[str]:
        if self.fit != "tile":
            return [file]
        n_tiles = (height // self.source_side) * (width // self.source_side)
        return [f"{file}#{tile}" for tile in _spread(n_tiles, self.max_tiles_per_image or n_tiles)]

    def _split_id(self, image_id: str) -> tuple[str, int]:
        """File and tile of an id; the tile is 0 where photographs are not cut."""
        file, mark, tile = image_id.rpartition("#") if self.fit == "tile" else (image_id, "", "0")
        if not file or not tile.isdecimal() or Path(file).is_absolute() or ".." in Path(file).parts:
            raise DataError(f"{image_id!r} is not an image of {self.path} with fit: {self.fit}; rebuild the splits")
        return file, int(tile)

    def _fit(self, pixels: PixelArray, tile: int) -> PixelArray:
        if self.fit == "crop":
            return crop_centre(pixels, self.image_size, self.resample)
        if self.fit == "tile":
            pixels = cut_tile(pixels, self.source_side, tile)
        return resize_pixels(pixels, self.image_size, self.image_size, self.resample)


def crop_centre(pixels: PixelArray, side: int, resample: Resample = "bicubic") -> PixelArray:
    """Resize the shorter edge of (H, W, 3) to `side` and cut the central square out."""
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    height, width = side * height // shorter, side * width // shorter
    top, left = round((height - side) / 2), round((width - side) / 2)
    return resize_pixels(pixels, height, width, resample)[top : top + side, left : left + side]


def cut_tile(pixels: PixelArray, side: int, tile: int) -> PixelArray:
    """Square number `tile` (by rows) of the grid of squares that is centred in (H, W, 3).

    Raises:
        DataError: If the grid has fewer squares.
    """
    n_rows, n_columns = pixels.shape[0] // side, pixels.shape[1] // side
    if tile >= n_rows * n_columns:
        raise DataError(f"has {n_rows * n_columns} tiles of {side} pixels, so no tile {tile}; rebuild the splits")
    top = (pixels.shape[0] - n_rows * side) // 2 + tile // n_columns * side
    left = (pixels.shape[1] - n_columns * side) // 2 + tile % n_columns * side
    return pixels[top : top + side, left : left + side]


def _spread(n_available: int, n_wanted: int) -> Iterator[int]:
    """At most `n_wanted` of range(n_available), evenly spread and in order."""
    n_kept = min(n_available, n_wanted)
    return ((2 * k + 1) * n_available // (2 * n_kept) for k in range(n_kept))


def _to_image(pixels: PixelArray) -> npt.NDArray[np.float32]:
    values = from_uint8(pixels) if pixels.dtype == np.uint8 else pixels
    return np.asarray(values, dtype=np.float32).transpose(2, 0, 1)
