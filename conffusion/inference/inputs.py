"""What a command is given: images, masks and truths, matched by name, all checked before any work starts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from conffusion.tasks import Task

Paths = Sequence[str | Path]


@dataclass(frozen=True)
class InputOptions:
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
        warnings: Sentences about the values of image and truth, for people.
    """

    name: str
    original: Image
    image: FloatArray
    mask: npt.NDArray[np.uint8] | None
    target: FloatArray | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """All images of a command, in the order in which they are worked on; see `gather`.

    Attributes:
        names: Name of each image, which is that of its folder of results.
        groups: Group of each image; None where no rule joins images.
        masks: "own" where they were given, "centre" where the hole of the training is cut out, "none" without.
        value_range: Sample values that stand for 0 and 1; None: by the type of the samples.
    """

    names: Sequence[str]
    groups: npt.NDArray[np.str_] | None
    _load: Callable[[str], Item] = field(repr=False)
    masks: Literal["none", "centre", "own"] = "none"
    value_range: tuple[float, float] | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def load(self, name: str) -> Item:
        """Read one image with its mask and truth.

        Raises:
            DataError: If a file is damaged, or sizes do not fit each other.
        """
        return self._load(name)

    def shuffled(self, seed: int) -> "Inputs":
        """The same in a random order that depends on the seed and the names alone: some bounds depend on the order."""
        sorted_names = np.argsort(np.asarray(self.names))
        order = sorted_names[keyed_generator("order", seed, "pairs").permutation(len(self.names))]
        groups = None if self.groups is None else self.groups[order]
        return replace(self, names=[self.names[k] for k in order], groups=groups)


def gather(task: Task, seed: int, images: Paths, targets: Paths, options: InputOptions, hole_of: int) -> Inputs:
    """Match images with their masks and truths; every header is read, and nothing else.

    Args:
        task: What is restored.
        seed: Of random degradations.
        images: Files and folders of corrupted images; none: they are made from the truths as the task says.
        targets: Files and folders of truths, with the names of the images; none: they are not known.
        options: How files are read.
        hole_of: Side of the images that the model knows, whose hole is cut out where masks are not given.
    Raises:
        DataError: If a file is missing, unreadable or has no partner, or there are none.
    """
    reader = _Reader(task, seed, options, hole_of)
    truths = reader.list(targets) if targets else {}
    corrupted = reader.list(images) if images else {}
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
    masks = reader.masks(list(first))
    names = list(first)

    def load(name: str) -> Item:
        return reader.load(name, corrupted.get(name), truths.get(name), masks.get(name))

    kind: Literal["none", "centre", "own"] = "none"
    if task.has_mask:
        kind = "centre" if options.masks is None else "own"
    return Inputs(names, _groups(first, options), load, kind, options.value_range)


@dataclass(frozen=True)
class _Place:
    """One image of a file."""

    file: Path
    originals: ImageSequence
    number: int

    def read(self) -> Image:
        return self.originals[self.number]


@dataclass(frozen=True)
class _Reader:
    task: Task
    seed: int
    options: InputOptions
    hole_of: int

    def list(self, paths: Paths) -> dict[str, _Place]:
        """Every image by its name; images of one file are numbered."""
        places: dict[str, _Place] = {}
        for file, name in output_names(list_images(paths), paths).items():
            opened = open_images(file, max_pixels=self.options.max_pixels, value_range=self.options.value_range)
            for number in range(len(opened)):
                places[name if len(opened) == 1 else f"{name}/{number:04d}"] = _Place(file, opened, number)
        return places

    def masks(self, names: Sequence[str]) -> dict[str, Path]:
        """File of each image's mask."""
        if self.options.masks is None:
            return {}
        place = Path(self.options.masks)
        if not place.is_dir():
            if not place.is_file():
                raise DataError(f"{place}: the mask is missing")
            return dict.fromkeys(names, place)
        found = {name: file for file, name in output_names(list_images([place]), [place]).items()}
        lacking = [name for name in names if name not in found]
        if lacking:
            raise DataError(f"{place}: has no mask called {lacking[0]!r} ({len(lacking)} images have none)")
        return {name: found[name] for name in names}

    def load(self, name: str, corrupted: _Place | None, truth: _Place | None, mask_file: Path | None) -> Item:
        target = None if truth is None else truth.read()
        original = corrupted.read() if corrupted is not None else target
        assert original is not None
        pixels = original.pixels
        known: FloatArray | None = None
        if corrupted is None:
            pixels, known = self._corrupt(name, pixels)
        elif target is not None:
            known = self._fitting(name, pixels, target)
        warnings = original.warnings
        if corrupted is not None and target is not None:
            warnings += tuple(f"truth: {warning}" for warning in target.warnings)
        return Item(name, original, pixels, self._mask(pixels, mask_file), known, warnings)

    def _corrupt(self, name: str, truth: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What people would have of a truth, and the truth, cut to a size that the task can have made."""
        height, width = (side // self.task.factor * self.task.factor for side in truth.shape[1:])
        if not height or not width:
            raise DataError(f"{name}: is smaller than {self.task.factor} pixels, the factor of {self.task.label}")
        truth = truth[:, :height, :width]
        if self.task.factor > 1:
            return resize_bicubic(truth[None], height // self.task.factor, width // self.task.factor)[0], truth
        if self.task.has_mask:
            return truth, truth
        return self.task.apply(truth[None], [name], self.seed)[0][0], truth

    def _fitting(self, name: str, pixels: FloatArray, target: Image) -> FloatArray:
        expected = tuple(side * self.task.factor for side in pixels.shape[1:])
        if target.pixels.shape[1:] != expected or len(target.pixels) != len(pixels):
            raise DataError(
                f"{target.name}: the truth has {target.pixels.shape[2]}x{target.pixels.shape[1]} pixels and "
                f"{len(target.pixels)} channels, but {name!r} restored will have {expected[1]}x{expected[0]} and "
                f"{len(pixels)}"
            )
        return target.pixels

    def _mask(self, pixels: FloatArray, mask_file: Path | None) -> npt.NDArray[np.uint8] | None:
        if not self.task.has_mask:
            return None
        height, width = pixels.shape[1:]
        if mask_file is not None:
            return read_mask(mask_file, height, width, max_pixels=self.options.max_pixels)
        return _middle_hole(self.task.mask((1, 1, self.hole_of, self.hole_of))[0, 0], height, width)


def _middle_hole(trained: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """The hole of the training in the middle of an image."""
    side = len(trained)
    if height < side or width < side:
        raise DataError(f"images of {width}x{height} pixels are smaller than the {side}x{side} that the model knows")
    mask = np.zeros((height, width), np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    mask[top : top + side, left : left + side] = trained
    return mask


def _check_partners(corrupted: Mapping[str, _Place], truths: Mapping[str, _Place]) -> None:
    for ours, theirs, what in ((corrupted, truths, "truth"), (truths, corrupted, "image")):
        alone = [name for name in ours if name not in theirs]
        if alone:
            raise DataError(
                f"{ours[alone[0]].file}: has no {what} of the same name ({len(alone)} in all); images and truths are "
                "matched by their path below their folder, without the suffix"
            )


def _groups(places: Mapping[str, _Place], options: InputOptions) -> npt.NDArray[np.str_] | None:
    if options.group_pattern is not None and options.group_csv is not None:
        raise DataError("give either --group-pattern or --group-csv, not both")
    files = [_below(name, place) for name, place in places.items()]
    if options.group_pattern is not None:
        found = groups_by_pattern(
            files, options.group_pattern, str, key="--group-pattern", remedy="change the expression"
        )
    elif options.group_csv is not None:
        found = groups_by_table(files, options.group_csv, "the images' common folder")
    elif len({place.file for place in places.values()}) < len(places):
        found = {file: file for file in files}  # the images of one file belong together
    else:
        return None
    return np.array([found[file] for file in files])


def _below(name: str, place: _Place) -> str:
    """The file of an image, relative to the common folder."""
    stem = name.rsplit("/", 1)[0] if len(place.originals) > 1 else name
    return stem + place.file.suffix
