"""Units of a guarantee: what counts as one independent loss (an image, a group of images, or each pixel value)."""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from conffusion.core.arrays import FloatArray, GroupLabels, IntArray, as_numpy
from conffusion.core.choices import UnitName
from conffusion.core.labelled_bounds import check_labels
from conffusion.core.randomness import keyed_generator
from conffusion.errors import ConfigError, DataError

Counts: TypeAlias = IntArray | FloatArray  # of pixels, or whole-numbered sums of their weights


@dataclass(frozen=True)
class Units:
    """How missed pixels per image become one loss per unit.

    Attributes:
        name: "image" (loss = share of the image's evaluated pixels missed), "group" (mean of its images' losses), or
            "pixel" (all pixels in one pot: a single column of losses that holds their mean).
        n_pixels: (N,) evaluated pixels of each image, or sum of their weights.
        group: (N,) index of the image's group, as `group_index` gives it, for "group"; for "image" the place of each
            image in the order of the losses. None = the order given.
    """

    name: UnitName
    n_pixels: IntArray
    group: IntArray | None = None

    @property
    def n_images(self) -> int:
        """Number of images N."""
        return len(self.n_pixels)

    @property
    def n_units(self) -> int:
        """Number of losses: images, groups, or 1 for "pixel"."""
        if self.name == "pixel":
            return 1
        return self.n_images if self.group is None else int(self.group.max()) + 1

    @property
    def n_bound(self) -> int:
        """The n given to the bound: images, groups, or pixel values."""
        return int(self.n_pixels.sum()) if self.name == "pixel" else self.n_units

    @property
    def noun(self) -> str:
        """What one unit is, for messages; an image of one pixel is a pixel value."""
        return "pixel value" if self.name == "pixel" or (self.n_pixels == 1).all() else self.name

    def losses(self, counts: Counts) -> FloatArray:
        """(n_units, n_columns) losses from (N, n_columns) missed pixels per image, or their weights."""
        if self.name == "pixel":
            return np.asarray(counts.sum(axis=0, keepdims=True) / self.n_pixels.sum())
        per_image = counts / self.n_pixels[:, None]
        return per_image if self.group is None else group_means(per_image, self.group)

    def shuffled(self, seed: int) -> "Units":
        """The same units in a random order that depends on the seed and their number alone."""
        if self.name == "pixel":
            return self
        places = random_places(self.n_units, seed)
        return replace(self, group=places if self.group is None else places[self.group])


def random_places(n_units: int, seed: int) -> IntArray:
    """(n_units,) place of each unit in a random order, for bounds that bet on losses."""
    return keyed_generator("unit order", seed).permutation(n_units)


def in_random_order(losses: FloatArray, seed: int) -> FloatArray:
    """Losses (n_units, ...) in the order of `random_places`."""
    return losses[np.argsort(random_places(len(losses), seed))]


def make_units(name: UnitName | None, n_pixels: IntArray, groups: GroupLabels | None) -> Units:
    """Units of a calibration set.

    Args:
        name: "image", "group" or "pixel"; None means "group" where groups are given, else "image".
        n_pixels: (N,) evaluated pixels of each image.
        groups: (N,) label of each image's group, or None.
    Raises:
        ConfigError: If the name is unknown, or "group" comes without groups.
        ShapeError: If there is not one group label per image.
        DataError: If no pixel is evaluated, or under "image" and "group" an image has none.
    """
    name = name or ("image" if groups is None else "group")
    if name not in ("image", "group", "pixel"):
        raise ConfigError(f"unit = {name!r}: must be 'image', 'group' or 'pixel'")
    if n_pixels.sum() == 0:
        raise DataError("the mask selects no pixel: it must be 1 where pixels are evaluated")
    if name != "pixel" and not n_pixels.all():
        raise DataError(f"the mask selects no pixel in image {int(np.argmin(n_pixels))}: leave the image out")
    if name != "group":
        return Units(name, n_pixels)
    if groups is None:
        raise ConfigError("unit = 'group' needs groups, one label per image")
    return Units(name, n_pixels, group_index(groups, len(n_pixels)))


def group_index(groups: GroupLabels, n_images: int) -> IntArray:
    """(N,) index of each image's group, in an order in which their losses may be bet on.

    Betting bounds take the losses of groups one after another, in an order that must not depend on them. That is the
    order of first appearance where all groups are of one size. Where sizes differ, large groups appear first in
    shuffled images, and their losses may well be smaller than those of small groups; the order is then random, the same
    for the same labels.

    Raises:
        ShapeError: If there is not one label per image.
        DataError: If a label is None or NaN.
    """
    index = index_by_appearance(groups, n_images)
    if len(set(np.bincount(index))) <= 1:
        return index
    inverse = np.unique(as_numpy(groups), return_inverse=True)[1]
    return keyed_generator("group order").permutation(int(index.max()) + 1)[inverse]


def index_by_appearance(groups: GroupLabels, n_images: int) -> IntArray:
    """(N,) index of each image's group, numbered in order of first appearance.

    Raises:
        ShapeError: If there is not one label per image.
        DataError: If a label is None or NaN.
    """
    labels = check_labels("groups", groups, n_images)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def unit_means(values: FloatArray, groups: GroupLabels | None) -> FloatArray:
    """Values of images (N, ...), or their means over the images of each group where there are labels."""
    return values if groups is None else group_means(values, group_index(groups, len(values)))


def group_means(values: FloatArray, group: IntArray) -> FloatArray:
    """(n_groups, ...) means of (N, ...) values over the images of each group."""
    sizes = np.bincount(group)
    return np.asarray(group_sums(values, group) / sizes.reshape(-1, *(1,) * (values.ndim - 1)))


def group_sums(values: FloatArray, group: IntArray) -> FloatArray:
    """(n_groups, ...) sums of (N, ...) values over the images of each group."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    return np.asarray(np.add.reduceat(values[order], starts, axis=0))
