"""What a command is given: images, masks and truths, matched by name, all checked before any work starts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import FloatArray
from conffusion.core.randomness import keyed_generator
from conffusion.data.grouping import groups_by_pattern, groups_by_table
from conffusion.errors import DataError
from conffusion.images.image import MAX_PIXELS, Image, ImageSequence, open_images
from conffusion.images.listing import list_images, output_names
from conffusion.images.masks import read_mask
from conffusion.images.resize import resize_bicubic
from conffusion.inference.package import Package
from conffusion.tasks import Task

Paths = Sequence[str | Path]
MasksFrom = Literal["none", "centre", "own"]


@dataclass(frozen=True)
class ReadingOptions:
    """How files are read.

    Attributes:
        masks: A mask for all images, or a folder of masks with the names of the images. Where a task needs masks and
            none is given, the hole that the model was calibrated with is cut out of the middle of truths.
        max_pixels: Per image.
        value_range: Sample values that stand for 0 and 1; None: by the type of the samples.
        group_pattern: Regular expression on the names, whose first part in brackets is the group.
        group_csv: Table with the columns file and group.
    """

    masks: str | Path | None = None
    max_pixels: int = MAX_PIXELS
    value_range: tuple[float, float] | None = None
    group_pattern: str | None = None
    group_csv: str | Path | None = None


@dataclass(frozen=True, eq=False)
class Item:
    """One image to restore.

    Attributes:
        name: Name of its folder of results.
        original: What results are written like; the truth where only truths were given.
        image: (C, H, W) what is restored.
        mask: (H, W) uint8, 1 where missing; None where the task needs none.
        target: (C, H, W) truth, of the restored size; None where it is not known.
        warnings: Sentences about the values in its files.
    """

    name: str
    original: Image
    image: FloatArray
    mask: npt.NDArray[np.uint8] | None
    target: FloatArray | None
    warnings: tuple[str, ...] = ()

    @property
    def truth(self) -> FloatArray:
        """The target of an image that has one."""
        if self.target is None:
            raise DataError(f"{self.name}: has no truth")
        return self.target


@dataclass(frozen=True)
class _Page:
    """One image of a file."""

    path: Path
    file: ImageSequence
    number: int

    def read(self) -> Image:
        return self.file[self.number]


@dataclass(frozen=True)
class _Source:
    """Files of one image."""

    image: _Page | None
    truth: _Page | None
    mask: Path | None


@dataclass(frozen=True, eq=False)
class Reader:
    """All images of a command; iterating reads one after another. See `open_reader`.

    Attributes:
        package: The model that restores them.
        names: Name of each image, which is that of its folder of results, in the order of reading.
        groups: (n_images,) group of each image; None where no rule joins images.
        options: How files are read.
        masks: "own" where they were given, "centre" where the hole of the training is cut out, "none" without.
    """

    package: Package
    names: Sequence[str]
    groups: npt.NDArray[np.str_] | None
    options: ReadingOptions
    masks: MasksFrom
    _sources: Mapping[str, _Source]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def __iter__(self) -> Iterator[Item]:
        """The images, each with its mask and truth.

        Raises:
            DataError: If a file is damaged, or sizes do not fit each other.
        """
        return map(self.read, self.names)

    def read(self, name: str) -> Item:
        """One image with its mask and truth; raises as iterating does."""
        source, task = self._sources[name], self.package.task
        truth = None if source.truth is None else source.truth.read()
        original = truth if source.image is None else source.image.read()
        assert original is not None
        pixels, target = original.pixels, None
        if source.image is None:
            pixels, target = _corrupted(name, pixels, task, self.package.record.seed)
        elif truth is not None:
            target = _fitting(name, pixels, truth, task.factor)
        warnings = original.warnings
        if truth is not None and truth is not original:
            warnings += tuple(f"truth: {warning}" for warning in truth.warnings)
        return Item(name, original, pixels, self._mask(pixels, source.mask), target, warnings)

    def only(self, names: Sequence[str]) -> "Reader":
        """Some of the images, in this order."""
        if self.groups is None:
            return replace(self, names=names)
        group_of = dict(zip(self.names, self.groups, strict=True))
        return replace(self, names=names, groups=np.array([group_of[name] for name in names], self.groups.dtype))

    def shuffled(self) -> "Reader":
        """The same in a random order, which depends on the model's seed and the names: some bounds depend on it."""
        order = keyed_generator("order", self.package.record.seed, "pairs").permutation(len(self.names))
        names = np.sort(np.asarray(self.names))
        return self.only([str(name) for name in names[order]])

    def _mask(self, pixels: FloatArray, file: Path | None) -> npt.NDArray[np.uint8] | None:
        task, side = self.package.task, self.package.record.image_size
        if not task.has_mask:
            return None
        height, width = pixels.shape[1:]
        if file is not None:
            return read_mask(file, height, width, max_pixels=self.options.max_pixels)
        if height < side or width < side:
            raise DataError(
                f"images of {width}x{height} pixels are smaller than the {side}x{side} that the model knows"
            )
        mask = np.zeros((height, width), np.uint8)  # the hole of the training in the middle
        top, left = (height - side) // 2, (width - side) // 2
        mask[top : top + side, left : left + side] = task.mask((1, 1, side, side))[0, 0]
        return mask


def open_reader(package: Package, images: Paths, targets: Paths, options: ReadingOptions | None = None) -> Reader:
    """Match images with their masks and truths; every header is read, and nothing else.

    Args:
        package: The model: its task, its seed for random degradations, and the hole of its training.
        images: Files and folders of corrupted images; none: they are made from the truths as the task says.
        targets: Files and folders of truths, with the names of the images; none: they are not known.
        options: How files are read; None: as `ReadingOptions()` says.
    Raises:
        DataError: If a file is missing, unreadable or has no partner, or there are none.
    """
    options, task = options or ReadingOptions(), package.task
    truths = _pages(targets, options) if targets else {}
    corrupted = _pages(images, options) if images else {}
    if images and targets:
        _check_partners(corrupted, truths)
    first = corrupted or truths
    if not first:
        raise DataError("no images: name at least one file or folder")
    if task.has_mask and options.masks is None and (images or not targets):
        raise DataError(
            f"{task.label} needs --mask: an image, or a folder of images, in which white marks what is missing"
        )
    if not task.has_mask and options.masks is not None:
        raise DataError(f"{task.label} restores every pixel: leave --mask out")
    mask_files = _mask_files(list(first), options.masks)
    sources = {name: _Source(corrupted.get(name), truths.get(name), mask_files.get(name)) for name in first}
    masks: MasksFrom = "none" if not task.has_mask else "centre" if options.masks is None else "own"
    return Reader(package, list(first), _groups(first, options), options, masks, sources)


def _pages(paths: Paths, options: ReadingOptions) -> dict[str, _Page]:
    """Every image by its name; images of one file are numbered."""
    pages: dict[str, _Page] = {}
    for path, name in output_names(list_images(paths), paths).items():
        file = open_images(path, max_pixels=options.max_pixels, value_range=options.value_range)
        for number in range(len(file)):
            pages[name if len(file) == 1 else f"{name}/{number:04d}"] = _Page(path, file, number)
    return pages


def _mask_files(names: Sequence[str], masks: str | Path | None) -> dict[str, Path]:
    """File of each image's mask."""
    if masks is None:
        return {}
    path = Path(masks)
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path}: the mask is missing")
        return dict.fromkeys(names, path)
    found = {name: file for file, name in output_names(list_images([path]), [path]).items()}
    lacking = [name for name in names if name not in found]
    if lacking:
        raise DataError(f"{path}: has no mask called {lacking[0]!r} ({len(lacking)} images have none)")
    return found


def _check_partners(corrupted: Mapping[str, _Page], truths: Mapping[str, _Page]) -> None:
    for ours, theirs, what in ((corrupted, truths, "truth"), (truths, corrupted, "image")):
        alone = [name for name in ours if name not in theirs]
        if alone:
            raise DataError(
                f"{ours[alone[0]].path}: has no {what} of the same name ({len(alone)} in all); images and truths "
                "are matched by their path below their folder, without the suffix"
            )


def _groups(pages: Mapping[str, _Page], options: ReadingOptions) -> npt.NDArray[np.str_] | None:
    if options.group_pattern is not None and options.group_csv is not None:
        raise DataError("give either --group-pattern or --group-csv, not both")
    files = [
        (name.rpartition("/")[0] if len(page.file) > 1 else name) + page.path.suffix for name, page in pages.items()
    ]  # relative to the common folder
    if options.group_pattern is not None:
        found = groups_by_pattern(
            files, options.group_pattern, str, key="--group-pattern", remedy="change the expression"
        )
    elif options.group_csv is not None:
        found = groups_by_table(files, options.group_csv, "the images' common folder")
    elif any(len(page.file) > 1 for page in pages.values()):
        found = {file: file for file in files}  # the images of one file belong together
    else:
        return None
    return np.array([found[file] for file in files])


def _corrupted(name: str, truth: FloatArray, task: Task, seed: int) -> tuple[FloatArray, FloatArray]:
    """What would be given of a truth, and the truth, cut to a size that the task can have made."""
    height, width = (side // task.factor * task.factor for side in truth.shape[1:])
    if not height or not width:
        raise DataError(f"{name}: is smaller than {task.factor} pixels, the factor of {task.label}")
    truth = truth[:, :height, :width]
    if task.factor > 1:
        return resize_bicubic(truth[None], height // task.factor, width // task.factor)[0], truth
    if task.has_mask:
        return truth, truth
    return task.apply(truth[None], [name], seed)[0][0], truth


def _fitting(name: str, pixels: FloatArray, truth: Image, factor: int) -> FloatArray:
    """The truth of an image, once its size is that of the restored image."""
    height, width = (side * factor for side in pixels.shape[1:])
    if truth.pixels.shape != (len(pixels), height, width):
        raise DataError(
            f"{truth.name}: the truth has {truth.pixels.shape[2]}x{truth.pixels.shape[1]} pixels and "
            f"{len(truth.pixels)} channels, but {name!r} restored will have {width}x{height} and {len(pixels)}"
        )
    return truth.pixels
