"""Fit a family's shape, and choose among families, on images that calibrate nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from conffusion.calibration.families import Family, check_family_name, get_family
from conffusion.calibration.krcps import fit_pixel_groups
from conffusion.calibration.learned import fit_learned_scale
from conffusion.calibration.pixels import open_pixels
from conffusion.calibration.rules import Level, get_rule
from conffusion.calibration.ucb import check_level, checked_losses
from conffusion.calibration.units import index_by_appearance, make_units
from conffusion.core.arrays import ArrayLike, FloatArray, GroupLabels, IntArray, as_numpy
from conffusion.core.choices import BoundName
from conffusion.core.progress import Progress
from conffusion.core.randomness import keyed_generator
from conffusion.errors import CalibrationError, ConfigError, DataError

_N_GROUPS = 8  # of pixel positions
_N_FOLDS = 2
_HALVINGS = 30


def fit_family(
    name: str,
    lower: ArrayLike,
    upper: ArrayLike,
    target: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    groups: GroupLabels | None = None,
    level: float,
    seed: int = 0,
) -> Family:
    """The family called `name`, its shape fitted for the smallest mean size at a given risk.

    Args:
        name: As in `Family`; a plain scaling needs no data and is returned as it is.
        lower: (N, C, H, W) lower bounds in [0, 1] of images that will not calibrate; NumPy, torch or zarr array.
        upper: Upper bounds, same shape.
        target: Truth, same shape.
        mask: Same shape, or (N, 1, H, W); pixels where it is 1 are evaluated.
        groups: (N,) group label of each image; every group then weighs the same. Pixel groups weigh all pixels alike.
        level: Risk at which to fit, in (0, 1): what calibration is expected to leave, see `attainable_risk`.
        seed: Seed of the fit.
    Raises:
        ConfigError: If the name or the level is invalid.
        ShapeError: If shapes do not match.
        DataError: If a value is NaN or infinite, or an image has no evaluated pixel.
        CalibrationError: If no offsets of pixel groups keep the level.
    """
    check_level("level", level)
    check_family_name(name)
    _check_images(lower, upper, target, mask)
    if name == "learned":
        weights = image_weights(groups, int(target.shape[0]))
        low, high, truth = (as_numpy(array) for array in (lower, upper, target))
        chosen = None if mask is None else as_numpy(mask)
        return Family(name, fit_learned_scale(low, high, truth, chosen, weights, level=level, seed=seed))
    if name == "pixel_groups":
        return Family(name, fit_pixel_groups(lower, upper, target, mask, n_groups=_N_GROUPS, level=level))
    return get_family(name)


def choose_family(
    names: Sequence[str],
    lower: ArrayLike,
    upper: ArrayLike,
    target: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    groups: GroupLabels | None = None,
    level: float,
    seed: int = 0,
) -> tuple[Family, dict[str, float]]:
    """The family with the smallest mean size at a given risk, by two-fold cross-validation over images or groups.

    Every family is fitted on each half and measured on the other, at the scale that leaves the risk `level` there; the
    winner is then fitted on everything.

    Args:
        names: Candidates; with one, nothing is compared.
        lower: As in `fit_family`, and so on.
        upper: See there.
        target: See there.
        mask: See there.
        groups: See there.
        level: See there.
        seed: Seed of the halves and of the fits.
    Returns:
        (family, sizes): sizes holds the cross-validated mean size of each candidate; empty with one candidate. A family
        that cannot reach the level has size inf.
    Raises:
        ConfigError: If a name or the level is invalid, or there is no name.
        ShapeError: If shapes do not match.
        DataError: As `fit_family`; or if there are fewer than two images or groups to compare on.
        CalibrationError: As `fit_family`, for the only candidate.
    """
    check_level("level", level)
    if not names:
        raise ConfigError("names is empty: at least one family is needed")
    for name in names:
        check_family_name(name)
    _check_images(lower, upper, target, mask)
    given: dict[str, Any] = {"level": level, "seed": seed}
    arrays = _Arrays.of(lower, upper, target, mask, groups)
    if len(names) == 1:
        return arrays.fit(names[0], **given), {}
    folds = arrays.folds(seed)
    progress = Progress("choosing the set family", len(names) + 1, unit="families")
    sizes = {}
    for name in names:
        sizes[name] = float(np.mean([_size_of(name, *fold, **given) for fold in folds]))
        progress.update()
    best = arrays.fit(min(sizes, key=lambda name: sizes[name]), **given)
    progress.update()
    return best, sizes


def attainable_risk(losses: ArrayLike, *, n: int, alpha: float, delta: float, ucb: BoundName = "wsr") -> float:
    """Mean loss at which n units with losses in the proportions of the given ones would just pass the bound.

    The `level` for `fit_family` and `choose_family`. Losses are multiplied by a common factor, at most alpha / mean,
    and are 1 where the product exceeds 1. They are bet on in the order given; another order changes the result by about
    a hundredth, rarely by a twentieth, and the width of intervals fitted at it by less than 0.1 %.

    Args:
        losses: (n_units,) losses in [0, 1] at a scale near the wanted one, of other units than those to calibrate; for
            instance `conffusion.metrics.image_losses` of uncalibrated intervals.
        n: Number of images, or groups, that will calibrate.
        alpha: Risk level, in (0, 1).
        delta: Error level, in (0, 1).
        ucb: Bound, as in `calibrate`.
    Returns:
        A risk in (0, alpha); half of alpha where even no loss would not pass, or all the given losses are 0.
    Raises:
        ConfigError: If alpha, delta, n or the name is invalid.
        ShapeError: If losses is not one-dimensional, or empty.
        DataError: If a loss is NaN or outside [0, 1].
    """
    check_level("alpha", alpha)
    check_level("delta", delta)
    if n < 1:
        raise ConfigError(f"n = {n}: must be at least 1")
    values, rule, level = checked_losses(losses), get_rule(ucb), Level(alpha, delta, n)
    mean = float(values.mean())
    low, high = 0.0, alpha / mean if mean > 0 else 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rule.would_pass(np.minimum(values * middle, 1.0), level) else (low, middle)
    return float(np.minimum(values * low, 1.0).mean()) or alpha / 2


def image_weights(groups: GroupLabels | None, n_images: int) -> FloatArray:
    """(N,) weights that add up to 1: the same for every group, shared evenly by its images."""
    if groups is None:
        return np.full(n_images, 1.0 / n_images)
    index = index_by_appearance(groups, n_images)
    counts = np.bincount(index)
    return 1.0 / counts[index] / len(counts)


def _check_images(lower: ArrayLike, upper: ArrayLike, target: ArrayLike, mask: ArrayLike | None) -> None:
    """Raise unless the shapes match and every image has an evaluated pixel."""
    make_units("image", open_pixels(lower, upper, target, mask, "interval").count_evaluated(), None)


class _Arrays:
    """Arrays of some images in memory."""

    def __init__(self, arrays: list[Any], groups: Any) -> None:
        self._arrays, self.groups = arrays, groups

    @classmethod
    def of(cls, lower: Any, upper: Any, target: Any, mask: Any, groups: Any) -> "_Arrays":
        arrays = [None if array is None else as_numpy(array) for array in (lower, upper, target, mask)]
        return cls(arrays, None if groups is None else as_numpy(groups))

    def fit(self, name: str, **given: Any) -> Family:
        lower, upper, target, mask = self._arrays
        return fit_family(name, lower, upper, target, mask=mask, groups=self.groups, **given)

    def rows(self, chosen: IntArray) -> "_Arrays":
        arrays = [None if array is None else array[chosen] for array in self._arrays]
        return _Arrays(arrays, None if self.groups is None else self.groups[chosen])

    def folds(self, seed: int) -> list[tuple["_Arrays", "_Arrays"]]:
        """(rest, part) for each part; no group is divided."""
        n_images = len(self._arrays[0])
        index = np.arange(n_images) if self.groups is None else index_by_appearance(self.groups, n_images)
        n_units = int(index.max()) + 1
        if n_units < _N_FOLDS:
            raise DataError(f"{n_units} image or group to choose a family on: at least {_N_FOLDS} are needed")
        fold = keyed_generator("family folds", seed).permutation(n_units)[index] % _N_FOLDS
        return [(self.rows(np.flatnonzero(fold != k)), self.rows(np.flatnonzero(fold == k))) for k in range(_N_FOLDS)]

    def size_at_risk(self, family: Family, level: float) -> float:
        """Mean size where the mean loss is the largest one not above `level`; inf where no scale will do."""
        lower, upper, target, mask = self._arrays
        pixels = open_pixels(lower, upper, target, mask, family)
        weights, counts = image_weights(self.groups, pixels.n_images), pixels.count_evaluated()
        per_pixel = np.repeat(weights / counts, counts)
        critical = np.concatenate([pixels.critical(block) for block in pixels.blocks()])
        order = np.argsort(critical)
        scale = critical[order[np.searchsorted(np.cumsum(per_pixel[order]), 1.0 - level - 1e-12)]]
        if not np.isfinite(scale):
            return float("inf")
        sizes = [high.clip(0.0, 1.0) - low.clip(0.0, 1.0) for low, high in pixels.scaled(float(scale))]
        return float(per_pixel @ np.concatenate(sizes))


def _size_of(name: str, rest: _Arrays, part: _Arrays, *, level: float, seed: int) -> float:
    try:
        return part.size_at_risk(rest.fit(name, level=level, seed=seed), level)
    except CalibrationError:  # pixel groups where no offsets keep the level
        return float("inf")
