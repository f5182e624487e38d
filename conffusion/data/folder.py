"""Any folder or archive of a user's images as a dataset, with rules that say which images belong together."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from stat import S_ISDIR
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from conffusion.core.arrays import FloatArray
from conffusion.data.grouping import compile_pattern, groups_by_pattern, groups_by_table
from conffusion.data.known_sizes import Size, Stamp, read_known_sizes, write_known_sizes
from conffusion.data.parallel import DEFAULT_WORKERS, map_files
from conffusion.errors import ConfigError, DataError
from conffusion.images.image import Image, ImageSequence, kinds_of_warnings, naming_file, open_images
from conffusion.images.listing import KINDS, list_source
from conffusion.images.resize import PixelArray, Resample, from_uint8, resize_pixels
from conffusion.images.sources import Source, open_source

LOGGER = logging.getLogger(__name__)

Fit = Literal["crop", "resize", "tile"]
MAX_PIXELS = 2**28  # of one photograph; tiles are cut from very large ones
_PATTERN_KEY = "dataset.folder.group_pattern"
_IMAGE_ID = re.compile(r"(?P<file>.+?)(\[(?P<page>\d+)\])?(#(?P<tile>\d+))?", re.DOTALL)


@dataclass(frozen=True)
class FolderDataset:
    """Images of a folder and its subfolders, or of an archive; see `open_images` for the formats.

    Every page of a TIFF stack and every image of a zarr array is an image.

    Attributes:
        path: The folder, or a .zip or uncompressed .tar archive of it, which is read in place.
        image_size: Side of the square images, in pixels.
        pattern: Glob below the folder, or for the names in the archive; of the files that match, those that
            `conffusion.images.listing.list_source` takes for images.
        fit: `crop`: the shorter edge is resized to `image_size`, then the centre is cut out. `resize`: squeezed to a
            square. `tile`: non-overlapping squares of `tile_size` source pixels on a centred grid, each resized to
            `image_size`. Images are never enlarged: smaller ones are errors.
        tile_size: Side of a tile in source pixels, at least `image_size`, which is also the default.
        max_tiles_per_image: Tiles kept per photograph, spread evenly over its grid; None keeps all.
        group_pattern: Regular expression, searched in the path below the folder (with `/`); its group named `group`, or
            else its first one, is the group of the image: a person, a photograph, a patient.
        group_csv: CSV with the columns file (path below the folder) and group, on disk. Further rows are allowed.
        value_range: Sample values that stand for 0 and 1; None: by the type of the samples, see `open_images`.
        resample: Filter of all resizing; see `conffusion.images.resize.resize_pixels`.
        workers: Number of threads that read and decode files; the images do not depend on it.

    Without a group rule every image is its own group, except that the tiles and the pages of one file form a group.

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
    value_range: tuple[float, float] | None = None
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
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ConfigError(
                f"dataset.folder.value_range = {list(self.value_range)}: must be two numbers, low below high"
            )

    @property
    def source_side(self) -> int:
        """Smallest acceptable length of a photograph's shorter edge, in pixels."""
        return self.tile_size or self.image_size

    def table(self) -> pd.DataFrame:
        """All images, by path, page and tile; every file's header has been read, now or by an earlier command.

        Returns:
            Columns image_id (path below the folder, followed by `[k]` for page k of several, and for tiles by `#` and
            the tile's number on the grid), group and source (path below the folder), all text.
        Raises:
            DataError: If there are no images, a file is damaged or too small, or a file has no group.
        """
        groups = self._groups()
        rows = [
            (image_id, groups.get(file, file if len(sizes) > 1 else image_id), file)
            for file, sizes in zip(self.files, self.sizes(self.files), strict=True)
            for image_id in self._image_ids(file, sizes)
        ]
        return pd.DataFrame(rows, columns=["image_id", "group", "source"], dtype=str)

    def load(self, image_ids: Sequence[str]) -> FloatArray:
        """Images in the order given; each file is opened once. Warnings about values are logged, by their kind.

        Returns:
            (len(image_ids), 3, image_size, image_size) float32 in [0, 1].
        Raises:
            DataError: If a file is missing or damaged, or an id does not belong to the folder.
        """
        images, warnings = self.load_with_warnings(image_ids)
        for warning, count in warnings.items():
            LOGGER.warning("%s: %d of the images read: %s", self.path, count, warning)
        return images

    def load_with_warnings(self, image_ids: Sequence[str]) -> tuple[FloatArray, Mapping[str, int]]:
        """As `load`, and the kinds of warnings about values with the number of pages that each holds for."""
        images = np.empty((len(image_ids), 3, self.image_size, self.image_size), dtype=np.float32)
        files: dict[str, list[tuple[int, int, int]]] = {}  # page, tile and row of each image of a file
        for k, image_id in enumerate(image_ids):
            file, page, tile = self._split_id(image_id)
            files.setdefault(file, []).append((page, tile, k))

        def fill(file: str) -> list[str]:  # writes at once: each thread holds one photograph
            opened, warnings = self._open(file), []
            for page, rows in groupby(sorted(files[file]), key=lambda row: row[0]):
                if page >= len(opened):
                    raise DataError(f"{opened.path}: has {len(opened)} images, so no [{page}]; rebuild the splits")
                image = opened[page]
                warnings += image.warnings
                pixels = _colour(image)
                with naming_file(image.name):
                    self._check_side(*pixels.shape[:2])
                    for _, tile, k in rows:
                        images[k] = _to_image(self._fit(pixels, tile))
            return warnings

        found = map_files(fill, list(files), workers=self.workers, label=f"reading {self.path}")
        return images, kinds_of_warnings(warning for warnings in found for warning in warnings)

    def sizes(self, files: Sequence[str]) -> list[list[Size]]:
        """(height, width) of every image of each file as stored, before any rotation; surely large enough.

        Raises:
            DataError: If a file is damaged or too small.
        """
        known = read_known_sizes(self.path)

        def find(file: str) -> tuple[tuple[str, Stamp], list[Size]]:
            with naming_file(self._source.describe(file)):
                status = self._source.at(file).stat()
            key = file, (status.st_size, status.st_mtime_ns)
            is_known = key in known and not S_ISDIR(status.st_mode)  # the time of a zarr folder says too little
            if is_known:
                sizes = known[key]
            else:
                opened = self._open(file)
                opened.verify()
                sizes = [*opened.sizes]
            with naming_file(self._source.describe(file)):
                for size in sizes:
                    self._check_side(*size)
            return key, sizes

        found = map_files(find, files, workers=self.workers, label=f"checking {self.path}")
        if any(key not in known for key, _ in found):
            write_known_sizes(self.path, {**known, **dict(found)})
        return [sizes for _, sizes in found]

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
    def files(self) -> Sequence[str]:
        """Image files below the folder, as sorted paths with `/`."""
        listing = list_source(self._source, self.pattern)
        passed_over = listing.passed_over()
        if not listing.images:
            raise DataError(
                f"{self.path}: no images match dataset.folder.pattern = {self.pattern!r} "
                f"(there: {passed_over or 'nothing'}); images end in {KINDS}"
            )
        if passed_over:
            LOGGER.warning("%s: passed over: %s", self.path, passed_over)
        return listing.images

    def _open(self, file: str) -> ImageSequence:
        with naming_file(self._source.describe(file)):
            location = self._source.at(file)
        return open_images(location, max_pixels=MAX_PIXELS, value_range=self.value_range)

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

    def _image_ids(self, file: str, sizes: Sequence[Size]) -> Iterator[str]:
        for page, (height, width) in enumerate(sizes):
            name = f"{file}[{page}]" if len(sizes) > 1 else file
            if self.fit != "tile":
                yield name
                continue
            n_tiles = (height // self.source_side) * (width // self.source_side)
            yield from (f"{name}#{tile}" for tile in _spread(n_tiles, self.max_tiles_per_image or n_tiles))

    def _split_id(self, image_id: str) -> tuple[str, int, int]:
        """File, page and tile of an id; page and tile are 0 where a file has one image and photographs are not cut."""
        match = _IMAGE_ID.fullmatch(image_id)
        file = match["file"] if match else ""
        is_tile = match is not None and match["tile"] is not None
        if match is None or is_tile != (self.fit == "tile") or Path(file).is_absolute() or ".." in Path(file).parts:
            raise DataError(f"{image_id!r} is not an image of {self.path} with fit: {self.fit}; rebuild the splits")
        return file, int(match["page"] or 0), int(match["tile"] or 0)

    def _check_side(self, height: int, width: int) -> None:
        if min(height, width) < self.source_side:
            raise DataError(
                f"is too small: {width}x{height} pixels, but the shorter edge must have at least {self.source_side}; "
                "remove the file or choose a smaller image_size or dataset.folder.tile_size"
            )

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


def _colour(image: Image) -> PixelArray:
    """(H, W, 3): uint8 where the file has 256 grey levels, which are resized as such, else float32 in [0, 1]."""
    samples = image.samples if image.has_grey_levels else image.pixels.transpose(1, 2, 0)
    return np.repeat(samples, 3, axis=2) if samples.shape[2] == 1 else samples


def _to_image(pixels: PixelArray) -> npt.NDArray[np.float32]:
    values = from_uint8(pixels) if pixels.dtype == np.uint8 else pixels
    return np.asarray(values, dtype=np.float32).transpose(2, 0, 1)
