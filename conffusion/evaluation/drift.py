"""Do new images look like the calibration images, judged by their predicted intervals? No truth is needed.

The guarantee of a calibration holds for images that are exchangeable with the calibration images. `interval_features`
describes each image by a few numbers of its intervals, and `check_drift` tests whether two sets of such descriptions
could have been drawn from one pool. Finding nothing is no proof: a change that leaves the intervals alone, or one too
small for so few images, stays unseen. NumPy and SciPy only; zarr is streamed.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist, pdist, squareform

from conffusion.calibration.ucb import check_level
from conffusion.calibration.units import group_index, group_means
from conffusion.core.arrays import ArrayLike, FloatArray, GroupLabels, as_numpy, iterate_blocks
from conffusion.core.randomness import keyed_generator
from conffusion.errors import ConfigError, DataError, ShapeError
from conffusion.evaluation.features import FEATURE_NAMES, GIVEN_FEATURE_NAMES, given_features, interval_features

__all__ = [
    "ATYPICAL",
    "FEATURE_NAMES",
    "GIVEN_FEATURE_NAMES",
    "MAX_UNITS",
    "Drift",
    "check_drift",
    "given_features",
    "image_p_values",
    "interval_features",
]

ATYPICAL = 0.01  # level of warnings: p-values up to here are called out, of sets of images and of single ones
MAX_UNITS = 2000  # of each set: the kernel of 4,000 x 4,000 float32 takes 64 MB

_ALL_NAMES = FEATURE_NAMES + GIVEN_FEATURE_NAMES
_SMALLEST_DEVIATION = 1e-12  # below it a feature is constant up to rounding
_RIDGE = 0.3
_N_NEIGHBOURS = 5
_N_NAMED = 3
_PERMUTATIONS_AT_ONCE = 256
_IMAGES_AT_ONCE = 512


@dataclass(frozen=True)
class Drift:
    """Outcome of a drift check.

    Attributes:
        p_value: Probability, at most, of a difference as large as this if the two sets were exchangeable: P(p_value
            <= level) <= level at any number of images. Small values speak against the guarantee.
        statistic: Squared maximum mean discrepancy of the two sets, at least 0.
        image_p_values: (n_new,) for each new image: P(value <= level) <= level if it is exchangeable with the
            reference images, whatever the other new images are. Not corrected for looking at many images.
        most_shifted: The three features that moved most, as (name, mean of the new units minus mean of the
            reference units, in standard deviations of the reference units).
        unit: "image", or "group" where labels were given.
        n_reference: Reference images.
        n_new: New images.
        n_reference_used: Reference units (images or groups) that the test saw; a seeded sample above `MAX_UNITS`.
        n_new_used: New units that the test saw, likewise.
        smallest_p_value: Lower limit of `p_value` with so many units and permutations; where it exceeds a level,
            nothing could have been found at that level.
    """

    p_value: float
    statistic: float
    image_p_values: FloatArray
    most_shifted: tuple[tuple[str, float], ...]
    unit: Literal["image", "group"]
    n_reference: int
    n_new: int
    n_reference_used: int
    n_new_used: int
    smallest_p_value: float

    def warning(self, level: float = ATYPICAL) -> str | None:
        """A sentence for users if p_value <= level, else None (also where `smallest_p_value` exceeds the level).

        Args:
            level: Accepted rate of false alarms, in (0, 1).
        Raises:
            ConfigError: If the level is not in (0, 1).
        """
        check_level("level", level)
        if self.p_value > level:
            return None
        shifts = ", ".join(f"{name} {shift:+.1f}" for name, shift in self.most_shifted)
        n_atypical = int((self.image_p_values <= level).sum())
        return (
            f"the intervals of the {self.n_new} new images do not look like those of the {self.n_reference} calibration"
            f" images (drift test p = {self.p_value:.2g} <= {level:g}; {n_atypical} new images are atypical by"
            f" themselves; moved most, in standard deviations: {shifts}), so do not rely on the guaranteed risk here:"
            " calibrate on images like the new ones"
        )


def check_drift(
    reference: ArrayLike,
    new: ArrayLike,
    *,
    reference_groups: GroupLabels | None = None,
    new_groups: GroupLabels | None = None,
    n_permutations: int = 2000,
    seed: int = 0,
) -> Drift:
    """Test whether new images are exchangeable with reference images, by their interval features.

    The p-value is that of a permutation test: (1 + permutations with a statistic as large) / (1 + permutations), so
    false alarms are bounded exactly at any number of images. The statistic is the biased squared maximum mean
    discrepancy with a Gaussian kernel of the Mahalanobis distance, with the median distance as bandwidth. Features
    that say the same count less in it: they are scaled to variance 1, and its matrix is the inverse of their
    correlations plus 0.3 on the diagonal. Scale, correlations and bandwidth are those of both sets together.

    Where groups are given, whole groups are drawn anew, each described by the mean over its images. How large groups
    are belongs to what is compared: the mean of a large group varies less than that of a small one.

    Each new image also gets a conformal p-value: its score is its summed distance to the 5 nearest reference images,
    and each reference image is scored likewise among the other reference images and the new one. Where groups are
    given, one image of each reference group, drawn by the seed, takes part.

    Above `MAX_UNITS` units a set is thinned to a seeded sample of so many. Memory stays below about 300 MB.

    Args:
        reference: (n_reference, 10) features of the calibration images by `interval_features`, or (n_reference, 14)
            with those by `given_features` behind them; at least 2 units.
        new: Features of the new images, as many of each; one image is enough.
        reference_groups: (n_reference,) label of each image's group; images of a group may depend on each other.
        new_groups: (n_new,) likewise; equal labels in the two sets are different groups. Both or neither.
        n_permutations: Number of random permutations; the p-value is at least 1 / (1 + n_permutations).
        seed: Seed of permutations and samples.
    Raises:
        ConfigError: If n_permutations < 1, or groups come for one set only.
        ShapeError: If features or labels do not have these shapes, or a set is empty.
        DataError: If a feature is NaN or infinite, or there are fewer than 2 reference units.
    Source:
        Gretton et al. 2012, "A kernel two-sample test" (JMLR 13), equation 5 and the median heuristic of section 8;
        p-value: Phipson and Smyth 2010 (arXiv 1603.05766); conformal p-values: Vovk, Gammerman and Shafer 2005,
        "Algorithmic learning in a random world", section 2.2; one image per group: Dunn, Wasserman and Ramdas 2022
        (arXiv 1809.07441), single subsampling.
    """
    _check_request(reference_groups, new_groups, n_permutations)
    sets = _ImageSet.of("reference", reference, reference_groups), _ImageSet.of("new", new, new_groups)
    _check_sets(*sets)
    thin = keyed_generator("drift", "thin", seed)
    old_units, new_units = (_thinned(images.unit_means(), thin) for images in sets)
    permutations = keyed_generator("drift", "permutations", seed)
    statistic, p_value = _permutation_test(old_units, new_units, n_permutations, permutations)
    n_old, n_new = len(old_units), len(new_units)
    return Drift(
        p_value=p_value,
        statistic=statistic,
        image_p_values=_image_p_values(*sets, keyed_generator("drift", "representatives", seed)),
        most_shifted=_most_shifted(old_units, new_units),
        unit=sets[0].unit,
        n_reference=len(sets[0].features),
        n_new=len(sets[1].features),
        n_reference_used=n_old,
        n_new_used=n_new,
        smallest_p_value=max(1 / (1 + n_permutations), 1 / math.comb(n_old + n_new, n_new)),
    )


def image_p_values(
    reference: ArrayLike, new: ArrayLike, *, reference_groups: GroupLabels | None = None, seed: int = 0
) -> FloatArray:
    """Conformal p-value of each new image, as in `Drift.image_p_values`, without the test of all images together.

    Args:
        reference: As for `check_drift`.
        new: As for `check_drift`.
        reference_groups: As for `check_drift`.
        seed: Seed of the sample of reference images.
    Returns:
        (n_new,) in (0, 1].
    Raises:
        ShapeError: If features or labels have other shapes, or a set is empty.
        DataError: If a feature is NaN or infinite, or there are fewer than 2 reference units.
    """
    sets = _ImageSet.of("reference", reference, reference_groups), _ImageSet.of("new", new, None)
    _check_sets(*sets)
    return _image_p_values(*sets, keyed_generator("drift", "representatives", seed))


@dataclass(frozen=True)
class _ImageSet:
    """Features of the images of one set, (n_images, F), and the index of each image's group, (n_images,), or None."""

    features: FloatArray
    group: npt.NDArray[np.integer[Any]] | None

    @classmethod
    def of(cls, name: str, features: ArrayLike, groups: GroupLabels | None) -> "_ImageSet":
        values = as_numpy(features).astype(np.float64)
        if values.ndim != 2 or values.shape[1] not in (len(FEATURE_NAMES), len(_ALL_NAMES)) or not len(values):
            raise ShapeError(
                f"{name} has shape {values.shape}: features of at least one image are needed, (n_images,"
                f" {len(FEATURE_NAMES)}) as `interval_features` makes them, or those of `given_features` behind them"
            )
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            raise DataError(f"{name} has features that are NaN or infinite in image {int(np.argmax(bad))}")
        return cls(values, None if groups is None else group_index(groups, len(values)))

    @property
    def unit(self) -> Literal["image", "group"]:
        return "image" if self.group is None else "group"

    @property
    def n_units(self) -> int:
        return len(self.features) if self.group is None else int(self.group.max()) + 1

    def unit_means(self) -> FloatArray:
        """(n_units, F) mean features of each unit."""
        return self.features if self.group is None else group_means(self.features, self.group)

    def representatives(self, generator: np.random.Generator) -> FloatArray:
        """(n_units, F) features of one image of each unit, drawn at random."""
        if self.group is None:
            return self.features
        order = generator.permutation(len(self.group))
        return self.features[order[np.unique(self.group[order], return_index=True)[1]]]


def _check_request(reference_groups: Any, new_groups: Any, n_permutations: int) -> None:
    if n_permutations < 1:
        raise ConfigError(f"n_permutations = {n_permutations}: must be at least 1")
    if (reference_groups is None) != (new_groups is None):
        missing = "reference_groups" if reference_groups is None else "new_groups"
        raise ConfigError(f"{missing} is missing: give labels for both sets, or for neither")


def _check_sets(reference: _ImageSet, new: _ImageSet) -> None:
    if reference.features.shape[1] != new.features.shape[1]:
        raise ShapeError(
            f"new has {new.features.shape[1]} features of an image, but reference has {reference.features.shape[1]}"
        )
    if reference.n_units < 2:
        raise DataError(f"reference has {reference.n_units} {reference.unit}: at least 2 are needed")


def _thinned(units: FloatArray, generator: np.random.Generator) -> FloatArray:
    """A random sample of the rows where there are too many."""
    if len(units) <= MAX_UNITS:
        return units
    return units[generator.choice(len(units), MAX_UNITS, replace=False)]


def _standard_metric(pooled: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scale of each feature, (F,), and the matrix of the distance between scaled features, (F, F).

    Both see the pooled rows only, whichever set they belong to: that keeps the tests exact.
    """
    deviation = pooled.std(axis=0)
    scale = np.where(deviation > _SMALLEST_DEVIATION, deviation, 1.0)
    covariance = np.cov(pooled / scale, rowvar=False, bias=True)
    return scale, np.linalg.inv(covariance + _RIDGE * np.eye(len(scale)))


def _permutation_test(
    reference: FloatArray, new: FloatArray, n_permutations: int, generator: np.random.Generator
) -> tuple[float, float]:
    """Squared maximum mean discrepancy of two sets of units, and its permutation p-value."""
    kernel = _centred_kernel(np.concatenate([reference, new]))
    is_new = np.repeat(np.array([0, 1], dtype=np.float32), [len(reference), len(new)])
    scale = (1 / len(reference) + 1 / len(new)) ** 2
    observed = scale * _quadratic_form(kernel, is_new[None])[0]
    enough = observed * (1 - 1e-5) - 1e-7  # sums of float32 that are equal in theory count as equal
    n_larger = 0
    for block in iterate_blocks(n_permutations, _PERMUTATIONS_AT_ONCE):
        drawn = generator.permuted(np.tile(is_new, (block.stop - block.start, 1)), axis=1)
        n_larger += int((scale * _quadratic_form(kernel, drawn) >= enough).sum())
    return max(0.0, float(observed)), (1 + n_larger) / (1 + n_permutations)


def _quadratic_form(kernel: FloatArray, drawn: FloatArray) -> FloatArray:
    """z' K z for each row z of 0 (reference) and 1 (new).

    For a kernel whose rows sum to 0 and weights w = z / n_new - (1 - z) / n_reference, the discrepancy w' K w is
    z' K z times (1 / n_new + 1 / n_reference) squared.
    """
    return np.einsum("pi,pi->p", drawn @ kernel, drawn, dtype=np.float64)


def _centred_kernel(pooled: FloatArray) -> FloatArray:
    """(n, n) float32 Gaussian kernel of the pooled units; its rows and columns are made to sum to 0."""
    scale, metric = _standard_metric(pooled)
    distances = pdist(pooled / scale, "mahalanobis", VI=metric)
    distances /= _bandwidth(distances)
    kernel = squareform(np.exp(-0.5 * np.square(distances, out=distances)).astype(np.float32))
    np.fill_diagonal(kernel, 1.0)
    for axis in (0, 1):
        kernel -= kernel.mean(axis=axis, keepdims=True, dtype=np.float64).astype(np.float32)
    return np.asarray(kernel)


def _bandwidth(distances: FloatArray) -> float:
    """Median distance of two units; where it is 0 their mean distance, and 1 where all units are equal."""
    return float(np.median(distances)) or float(distances.mean()) or 1.0


def _image_p_values(reference: _ImageSet, new: _ImageSet, generator: np.random.Generator) -> FloatArray:
    """(n_new,) conformal p-values of the new images against one image of each reference unit.

    Exact because the scale sees all images alike, and the score of a point depends on the other points of the pack
    {reference, new image} as a set. Putting the new image into the pack changes the neighbours of a reference image
    only if it is nearer than the farthest of them, which it then replaces.
    """
    scale, metric = _standard_metric(np.concatenate([reference.features, new.features]))
    known, unknown = _thinned(reference.representatives(generator), generator) / scale, new.features / scale
    n_neighbours = min(_N_NEIGHBOURS, len(known) - 1)
    among = squareform(pdist(known, "mahalanobis", VI=metric))
    np.fill_diagonal(among, np.inf)
    nearest = _nearest(among, n_neighbours)
    sums, farthest = nearest.sum(axis=1), nearest.max(axis=1)
    p_values = np.empty(len(unknown))
    for rows in iterate_blocks(len(unknown), _IMAGES_AT_ONCE):
        distances = cdist(unknown[rows], known, "mahalanobis", VI=metric)
        own = _nearest(distances, n_neighbours).sum(axis=1, keepdims=True)
        others = sums - np.maximum(farthest - distances, 0.0)
        as_large = others >= own * (1 - 1e-9) - 1e-9  # equal in theory counts as equal
        p_values[rows] = (1 + as_large.sum(axis=1)) / (1 + len(known))
    return p_values


def _nearest(distances: FloatArray, n_neighbours: int) -> FloatArray:
    """(n, n_neighbours) smallest distances of each row, in no order."""
    return np.partition(distances, n_neighbours - 1, axis=1)[:, :n_neighbours]


def _most_shifted(reference: FloatArray, new: FloatArray) -> tuple[tuple[str, float], ...]:
    """Names and shifts of the features that moved most."""
    spread = reference.std(axis=0)
    pooled_spread = _standard_metric(np.concatenate([reference, new]))[0]
    spread = np.where(spread > _SMALLEST_DEVIATION, spread, pooled_spread)
    shifts = (new.mean(axis=0) - reference.mean(axis=0)) / spread
    order = np.argsort(-np.abs(shifts), kind="stable")[:_N_NAMED]
    return tuple((_ALL_NAMES[index], float(shifts[index])) for index in order)
