"""Fit a family's shape, and choose among families, on images that calibrate nothing."""

from collections.abc import Sequence

import numpy as np

from conffusion.calibration.families import Family, check_family_name, get_family
from conffusion.calibration.krcps import fit_pixel_groups
from conffusion.calibration.learned import fit_learned_scale
from conffusion.calibration.pixels import Pixels
from conffusion.calibration.risk_bounds import Level, get_bound
from conffusion.calibration.ucb import check_level, checked_losses
from conffusion.calibration.units import in_random_order, index_by_appearance, make_units
from conffusion.core.arrays import ArrayLike, FloatArray, GroupLabels
from conffusion.core.choices import DEFAULT_ALPHA, DEFAULT_DELTA, ORDER_SEED, RECOMMENDED_BOUND, BoundName
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.core.progress import Progress
from conffusion.core.randomness import keyed_generator
from conffusion.errors import CalibrationError, ConfigError, DataError

_N_GROUPS = 8  # of pixel positions
_N_FOLDS = 2
_HALVINGS = 30


def fit_family(name: str, images: LabelledBounds, *, level: float, seed: int = 0) -> Family:
    """The family called `name`, its shape fitted for the smallest mean size at a given risk.

    Args:
        name: As in `Family`; a plain scaling needs no data and is returned as it is.
        images: Bounds and truth of images that will not calibrate, read whole; every group weighs the same in the fit
            of a learned shape, pixel groups weigh all pixels alike, and weights of pixels are not looked at.
        level: Risk at which to fit, in (0, 1): what calibration is expected to leave, see `attainable_risk`.
        seed: Seed of the fit.
    Raises:
        ConfigError: If the name or the level is invalid.
        DataError: If a value is NaN or infinite, or an image has no evaluated pixel.
        CalibrationError: If no offsets of pixel groups control the risk at the level.
    """
    check_level("level", level)
    check_family_name(name)
    make_units("image", images.count_evaluated(), None)  # raises where an image has no evaluated pixel
    if name == "learned":
        weights = image_weights(images.groups, images.n_images)
        return Family(name, fit_learned_scale(images.in_memory(), weights, level=level, seed=seed))
    if name == "pixel_groups":
        return Family(name, fit_pixel_groups(images.in_memory(), n_groups=_N_GROUPS, level=level))
    return get_family(name)


def choose_family(
    names: Sequence[str], images: LabelledBounds, *, level: float, seed: int = 0
) -> tuple[Family, dict[str, float]]:
    """The family with the smallest mean size at a given risk, by two-fold cross-validation over images or groups.

    Every family is fitted on each half and measured on the other, at the scale that leaves the risk `level` there; the
    winner is then fitted on everything.

    Args:
        names: Candidates; with one, nothing is compared.
        images: As in `fit_family`.
        level: See there.
        seed: Seed of the halves and of the fits.
    Returns:
        (family, sizes): sizes holds the cross-validated mean size of each candidate; empty with one candidate. A family
        that cannot reach the level has size inf.
    Raises:
        ConfigError: If a name or the level is invalid, or there is no name.
        DataError: As `fit_family`; or if there are fewer than two images or groups to compare on.
        CalibrationError: As `fit_family`, for the only candidate.
    """
    check_level("level", level)
    if not names:
        raise ConfigError("names is empty: at least one family is needed")
    for name in names:
        check_family_name(name)
    images = images.in_memory()
    make_units("image", images.count_evaluated(), None)
    if len(names) == 1:
        return fit_family(names[0], images, level=level, seed=seed), {}
    folds = _folds(images, seed)
    progress = Progress("choosing the set family", len(names) + 1, unit="families")
    sizes = {}
    for name in names:
        sizes[name] = float(np.mean([_size_of(name, *fold, level=level, seed=seed) for fold in folds]))
        progress.update()
    best = fit_family(min(sizes, key=lambda name: sizes[name]), images, level=level, seed=seed)
    progress.update()
    return best, sizes


def attainable_risk(
    losses: ArrayLike,
    *,
    n: int,
    alpha: float = DEFAULT_ALPHA,
    delta: float = DEFAULT_DELTA,
    ucb: BoundName | None = None,
    order_seed: int | None = ORDER_SEED,
) -> float:
    """Mean loss at which n units with losses in the proportions of the given ones would just pass the bound.

    The `level` for `fit_family` and `choose_family`. Losses are multiplied by a common factor, at most alpha / mean,
    and are 1 where the product exceeds 1. Where they are bet on, another order changes the result by about a hundredth,
    rarely by a twentieth, and the width of intervals fitted at it by less than 0.1 %.

    Args:
        losses: (n_units,) losses in [0, 1] at a scale near the wanted one, of other units than those to calibrate; for
            instance `conffusion.metrics.image_losses` of uncalibrated intervals.
        n: Number of images, or groups, that will calibrate.
        alpha: Risk level, in (0, 1).
        delta: Error level, in (0, 1).
        ucb: Bound, as in `calibrate`.
        order_seed: As in `calibrate`.
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
    values, bound, level = checked_losses(losses), get_bound(ucb or RECOMMENDED_BOUND), Level(alpha, delta, n)
    values = values if order_seed is None else in_random_order(values, order_seed)
    mean = float(values.mean())
    low, high = 0.0, alpha / mean if mean > 0 else 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if bound.would_pass(np.minimum(values * middle, 1.0), level) else (low, middle)
    return float(np.minimum(values * low, 1.0).mean()) or alpha / 2


def image_weights(groups: GroupLabels | None, n_images: int) -> FloatArray:
    """(N,) weights that add up to 1: the same for every group, shared evenly by its images."""
    if groups is None:
        return np.full(n_images, 1.0 / n_images)
    index = index_by_appearance(groups, n_images)
    counts = np.bincount(index)
    return 1.0 / counts[index] / len(counts)


def _folds(images: LabelledBounds, seed: int) -> list[tuple[LabelledBounds, LabelledBounds]]:
    """(rest, part) for each part; no group is divided."""
    n_images = images.n_images
    index = np.arange(n_images) if images.groups is None else index_by_appearance(images.groups, n_images)
    n_units = int(index.max()) + 1
    if n_units < _N_FOLDS:
        raise DataError(f"{n_units} image or group to choose a family on: at least {_N_FOLDS} are needed")
    fold = keyed_generator("family folds", seed).permutation(n_units)[index] % _N_FOLDS
    return [(images.take(np.flatnonzero(fold != k)), images.take(np.flatnonzero(fold == k))) for k in range(_N_FOLDS)]


def _size_of(name: str, rest: LabelledBounds, part: LabelledBounds, *, level: float, seed: int) -> float:
    """Mean size on `part` of the family fitted on the rest; inf where that cannot reach the level."""
    try:
        return _size_at_risk(part, fit_family(name, rest, level=level, seed=seed), level)
    except CalibrationError:  # pixel groups where no offsets reach the level
        return float("inf")


def _size_at_risk(images: LabelledBounds, family: Family, level: float) -> float:
    """Mean size where the mean loss is the largest one not above `level`; inf where no scale will do."""
    pixels, counts = Pixels.of(images, family), images.count_evaluated()
    per_pixel = np.repeat(image_weights(images.groups, images.n_images) / counts, counts)
    critical = np.concatenate([pixels.critical(block) for block in pixels.blocks()])
    order = np.argsort(critical)
    scale = critical[order[np.searchsorted(np.cumsum(per_pixel[order]), 1.0 - level - 1e-12)]]
    if not np.isfinite(scale):
        return float("inf")
    sizes = [high.clip(0.0, 1.0) - low.clip(0.0, 1.0) for low, high in pixels.scaled(float(scale))]
    return float(per_pixel @ np.concatenate(sizes))
