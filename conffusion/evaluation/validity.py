"""Does the guarantee of a protocol hold? Violation rate over many calibration draws from a pool of images.

Everything is computed from per-image losses as functions of lambda on a grid (`LossCurves`), so thousands of draws
take seconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conffusion.calibration.families import Family
from conffusion.calibration.pixels import Pixels
from conffusion.calibration.procedure import CalibrationOptions
from conffusion.calibration.risk_bounds import Level, MeanBound, RiskBound, get_bound
from conffusion.calibration.units import group_index, group_means, group_sums, make_units
from conffusion.core.arrays import BoolArray, FloatArray, IntArray, check_same_shape
from conffusion.core.choices import UnitName
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.core.randomness import keyed_generator
from conffusion.errors import ConfigError, DataError, ShapeError

_DENSE_RISK = 0.3  # the grid is dense where the pooled risk lies between 0 and this
_COARSE_POINTS = 32
_SIZE_POINTS = 64
_DRAWN_CELLS = 1 << 20  # losses held at a time: units x draws


@dataclass(frozen=True)
class LossCurves:
    """Loss and interval size of each pool image as functions of lambda.

    Attributes:
        lambdas: (G,) increasing; the last is the largest finite critical value, where only pixels are missed that no
            lambda covers.
        losses: (N, G) float32, share of each image's evaluated pixels that are missed.
        sizes: (N, G) float32, mean size of each image's evaluated pixels, clamped to [0, 1].
        n_pixels: (N,) evaluated pixels of each image.
        groups: (N,) group labels, or None.
    """

    lambdas: FloatArray
    losses: FloatArray
    sizes: FloatArray
    n_pixels: IntArray
    groups: npt.NDArray[Any] | None = None

    def save(self, path: Path | str) -> None:
        """Write to an .npz file."""
        arrays = {name: value for name, value in vars(self).items() if value is not None}
        with Path(path).open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path | str) -> "LossCurves":
        """Read a file written by `save`.

        Raises:
            DataError: If the file is not one.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(**{name: file[name] for name in file.files})
        except (TypeError, ValueError, EOFError) as error:
            raise DataError(f"{path}: not a file of loss curves ({error}); make it again") from error


@dataclass(frozen=True)
class Validity:
    """What happened over the draws.

    Attributes:
        violation_rate: Share of draws whose true (pool) risk at their lambda_hat exceeds alpha.
        standard_error: Binomial standard error of the violation rate.
        infeasible_rate: Share of draws without a feasible lambda_hat; they count as no violation.
        interval_size_mean: Mean over the feasible draws of the pool's mean size at lambda_hat; NaN if there are none.
        n_draws: Number of draws.
        n: Images or groups in each draw.
    """

    violation_rate: float
    standard_error: float
    infeasible_rate: float
    interval_size_mean: float
    n_draws: int
    n: int


def loss_curves(images: LabelledBounds, family: Family, n_points: int = 1024) -> LossCurves:
    """Losses and sizes of every image on a grid of lambdas.

    The grid holds quantiles of the pooled critical values (from a sample of half a million): 32 where the pooled risk
    exceeds 0.3, the rest evenly spread over risks from 0.3 to 0, and the largest finite critical value. Losses are
    exact at the grid points. Sizes are exact at up to 64 of them and interpolated linearly in lambda between.

    Args:
        images: Bounds before calibration, and truth; their groups are kept with the curves.
        family: Set family.
        n_points: Number of grid points G, at most; ties make it smaller.
    Raises:
        ConfigError: If n_points < 64.
        DataError: If evaluated values are NaN or infinite, an image has no evaluated pixel, or no lambda covers any.
    """
    if n_points < 2 * _COARSE_POINTS:
        raise ConfigError(f"n_points = {n_points}: must be at least {2 * _COARSE_POINTS}")
    pixels, labels = Pixels.of(images, family), None
    units = make_units("image", images.count_evaluated(), None)
    if images.groups is not None:
        labels = np.asarray(images.groups)
        labels = labels.astype(str) if labels.dtype == object else labels
    lambdas = _grid(pixels, n_points)
    losses = units.losses(pixels.count_above(lambdas)).astype(np.float32)
    return LossCurves(lambdas, losses, _sizes(pixels, lambdas), units.n_pixels, labels)


def assess_validity(
    candidates: Sequence[LossCurves],
    options: CalibrationOptions,
    *,
    n: int,
    n_draws: int,
    seed: int,
    reselect: bool = False,
) -> Validity:
    """Violation rate of a protocol over random calibration sets.

    Each draw takes n images with replacement from the pool (n groups, with all their images, where the curves have
    groups and the unit is not "image") and finds lambda_hat on them, rounded up to the next grid point (1024 points lie
    about 0.0003 of risk apart). The true risk there is the pool's: the mean over images, over groups of the mean over
    their images, or under "pixel" over pixels. lambda_hat is found by bisection. Where a bound is not monotone in
    lambda it may stop below the lambda_hat of `calibrate`, never above that grid point, which does not flatter the
    violation rate; the rounding does, a little.

    Args:
        candidates: Loss curves of the pool; several (say, one per stored checkpoint) only with `reselect`.
        options: Levels, bound and unit ("image", "group", for which curves need groups, or "pixel": the bound is given
            the number of pixel values drawn); the family is that of the curves, and the draws have a random order.
        n: Images or groups in each draw.
        n_draws: Number of draws.
        seed: Seed of the draws; the same draws for every bound and candidate.
        reselect: Official selection on the set that calibrates: in every draw each candidate gets its own lambda_hat,
            and among those whose drawn risk is below alpha the one with the smallest drawn mean size is used.
    Raises:
        ConfigError: If an argument is out of range, or the combination is not defined.
        ShapeError: If the candidates' pools differ.
        DataError: If there are no groups for unit "group".
    """
    _check_request(candidates, n, n_draws, options, reselect)
    pools = [_Pool.of(curves, options.unit) for curves in candidates]
    generator, bound = keyed_generator("validity", seed), get_bound(options.bound_name)
    level, outcomes = Level(options.alpha, options.delta, n), []
    step = max(1, _DRAWN_CELLS // n)
    for start in range(0, n_draws, step):
        drawn = generator.integers(pools[0].n_units, size=(min(step, n_draws - start), n)).T
        outcomes.append(_draw_outcomes(pools, drawn, bound, level, reselect))
    feasible, risks, sizes = (np.concatenate(parts) for parts in zip(*outcomes, strict=True))
    rate = float(np.mean(feasible & (risks > options.alpha)))
    size = float(sizes[feasible].mean()) if feasible.any() else math.nan
    error = math.sqrt(rate * (1.0 - rate) / n_draws)
    return Validity(rate, error, 1.0 - float(feasible.mean()), size, n_draws, n)


@dataclass(frozen=True)
class _Pool:
    """Curves per unit. Under "pixel" losses are exact counts of missed pixels, and `weights` pixels per drawn unit.

    Attributes:
        losses: (n_units, G).
        sizes: (n_units, G).
        weights: (n_units,) pixels of each image, or group of images, under "pixel", else None.
    """

    losses: FloatArray
    sizes: FloatArray
    weights: FloatArray | None

    @classmethod
    def of(cls, curves: LossCurves, unit: UnitName | None) -> "_Pool":
        if unit == "image":
            return cls(curves.losses, curves.sizes, None)
        if unit == "pixel":
            return cls._of_pixels(curves)
        if curves.groups is None:
            raise DataError("unit = 'group' needs loss curves with groups")
        group = group_index(curves.groups, len(curves.losses))
        return cls(group_means(curves.losses, group), group_means(curves.sizes, group), None)

    @classmethod
    def _of_pixels(cls, curves: LossCurves) -> "_Pool":
        """Pixels counted as independent; what is drawn is still whole groups where there are any."""
        weights = curves.n_pixels.astype(np.float64)
        losses, sizes = np.rint(curves.losses * weights[:, None]), curves.sizes
        if curves.groups is None:
            return cls(losses, sizes, weights)
        group = group_index(curves.groups, len(losses))
        totals = group_sums(weights, group)
        return cls(group_sums(losses, group), group_sums(sizes * weights[:, None], group) / totals[:, None], totals)

    @property
    def n_units(self) -> int:
        return len(self.losses)

    def smallest_passing(self, drawn: IntArray, bound: RiskBound, level: Level) -> tuple[IntArray, BoolArray]:
        """Grid index of lambda_hat for each draw (column of `drawn`), and whether there is one."""
        n_draws, top = drawn.shape[1], self.losses.shape[1] - 1
        low, high = np.full(n_draws, -1), np.full(n_draws, top)
        feasible = self._passes(drawn, high, bound, level)
        while (high - low > 1).any():
            middle = (low + high + 1) // 2
            passes = self._passes(drawn, middle, bound, level)
            low, high = np.where(passes, low, np.minimum(middle, high - 1)), np.where(passes, middle, high)
        return high, feasible

    def _passes(self, drawn: IntArray, at: IntArray, bound: RiskBound, level: Level) -> BoolArray:
        losses = self.losses[drawn, at].astype(np.float64)
        if self.weights is None:
            return bound.passes(losses, level)
        n_bound = self.weights[drawn].sum(axis=0)
        if not isinstance(bound, MeanBound):
            raise ConfigError("unit = 'pixel' needs a bound of the mean, not 'wsr'")
        return bound.accepts(losses.sum(axis=0) / n_bound, n_bound, level)

    def drawn_means(self, drawn: IntArray, at: IntArray) -> tuple[FloatArray, FloatArray]:
        """Risk and mean size of each draw at its grid index."""
        losses, sizes = self.losses[drawn, at], self.sizes[drawn, at]
        if self.weights is None:
            return losses.mean(axis=0, dtype=np.float64), sizes.mean(axis=0, dtype=np.float64)
        weights = self.weights[drawn]
        total = weights.sum(axis=0)
        return losses.sum(axis=0) / total, (sizes * weights).sum(axis=0) / total

    def pool_means(self) -> tuple[FloatArray, FloatArray]:
        """True risk and mean size at every grid point, (G,) each."""
        if self.weights is None:
            return self.losses.mean(axis=0, dtype=np.float64), self.sizes.mean(axis=0, dtype=np.float64)
        return self.losses.sum(axis=0) / self.weights.sum(), self.weights @ self.sizes / self.weights.sum()


def _draw_outcomes(
    pools: list[_Pool], drawn: IntArray, bound: RiskBound, level: Level, reselect: bool
) -> tuple[BoolArray, FloatArray, FloatArray]:
    """For each draw: whether it is feasible, and the pool's risk and size at its lambda_hat."""
    n_draws = drawn.shape[1]
    smallest = np.full(n_draws, np.inf)
    risks, sizes = np.full(n_draws, np.nan), np.full(n_draws, np.nan)
    for pool in pools:
        at, feasible = pool.smallest_passing(drawn, bound, level)
        drawn_risk, drawn_size = pool.drawn_means(drawn, at)
        better = feasible & (drawn_size < smallest) & ((drawn_risk < level.alpha) | (not reselect))
        true_risk, true_size = pool.pool_means()
        smallest = np.where(better, drawn_size, smallest)
        risks, sizes = np.where(better, true_risk[at], risks), np.where(better, true_size[at], sizes)
    return smallest < np.inf, risks, sizes


def _check_request(
    candidates: Sequence[LossCurves], n: int, n_draws: int, options: CalibrationOptions, reselect: bool
) -> None:
    if not candidates or (len(candidates) > 1 and not reselect):
        raise ConfigError(f"{len(candidates)} candidates: one is needed, or several with reselect = True")
    if n < 1 or n_draws < 1:
        raise ConfigError(f"n = {n}, n_draws = {n_draws}: must be at least 1")
    if options.unit is None:
        raise ConfigError("unit is missing: what is drawn and counted must be said, 'image', 'group' or 'pixel'")
    if options.unit == "pixel" and not isinstance(get_bound(options.bound_name), MeanBound):
        raise ConfigError(
            f"ucb = {options.bound_name!r} with unit = 'pixel' is not assessed: choose a bound of the mean"
        )
    for other in candidates[1:]:
        check_same_shape(first_candidate=candidates[0].n_pixels, other_candidate=other.n_pixels)
        if not np.array_equal(np.asarray(candidates[0].groups), np.asarray(other.groups)):
            raise ShapeError("the candidates' groups differ: make their curves on the same images")


def _grid(pixels: Pixels, n_points: int) -> FloatArray:
    """Increasing lambdas: quantiles of the pooled critical values, and the largest finite one."""
    largest = pixels.largest()
    if largest == -np.inf:
        raise DataError("no lambda covers any pixel under this scaling: look at the bounds")
    sample = np.sort(pixels.sample())
    coarse = np.linspace(1.0, _DENSE_RISK, _COARSE_POINTS, endpoint=False)
    dense = np.linspace(_DENSE_RISK, 0.0, n_points - 1 - _COARSE_POINTS)
    above = np.concatenate([coarse, dense])
    at = np.clip(np.ceil((1.0 - above) * len(sample)) - 1, 0, len(sample) - 1).astype(np.intp)
    chosen = sample[at] if len(sample) else sample
    return np.unique(np.append(chosen[chosen < largest], largest))


def _sizes(pixels: Pixels, lambdas: FloatArray) -> FloatArray:
    """(N, G) float32 mean clamped sizes, exact at up to 64 grid points and interpolated between."""
    exact = _size_points(len(lambdas))
    means = np.empty((pixels.images.n_images, len(exact)))
    for block in pixels.blocks():
        lower, upper = block.lower.astype(np.float32), block.upper.astype(np.float32)
        starts = np.concatenate([[0], block.ends[:-1]])
        n_pixels = np.diff(block.ends, prepend=0)
        for column, scale in enumerate(lambdas[exact].astype(np.float32)):
            low, high = pixels.scaling.apply(lower, upper, scale)
            sizes = high.clip(0.0, 1.0) - low.clip(0.0, 1.0)
            means[block.rows, column] = np.add.reduceat(sizes, starts) / n_pixels
    return np.stack([np.interp(lambdas, lambdas[exact], row) for row in means]).astype(np.float32)


def _size_points(n_lambdas: int) -> IntArray:
    """Grid points at which sizes are exact: evenly spread, and ever closer towards the ends, where lambda jumps."""
    near_ends = 2 ** np.arange(min(_SIZE_POINTS // 6, int(math.log2(n_lambdas)) + 1)) - 1
    even = np.linspace(0, n_lambdas - 1, _SIZE_POINTS - 2 * len(near_ends)).astype(np.intp)
    return np.unique(np.concatenate([even, near_ends, n_lambdas - 1 - near_ends]))
