"""Calibration: the smallest scale whose risk is bounded by alpha with probability 1 - delta."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from conffusion.calibration.families import Family, get_family
from conffusion.calibration.pixels import Pixels
from conffusion.calibration.record import Calibration
from conffusion.calibration.risk_bounds import Level, StarBound, VarianceBound, get_bound
from conffusion.calibration.search import RiskTest, SearchResult, smallest_passing
from conffusion.calibration.shortfall import shortfall
from conffusion.calibration.ucb import check_level
from conffusion.calibration.units import Units, make_units
from conffusion.core.arrays import ArrayLike, FloatArray, GroupLabels
from conffusion.core.choices import (
    DEFAULT_ALPHA,
    DEFAULT_DELTA,
    DEFAULT_SCALING,
    ORDER_SEED,
    RECOMMENDED_BOUND,
    UNITS,
    BoundName,
    UnitName,
)
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import CalibrationError, ConfigError

LambdaGrid: TypeAlias = tuple[float, float, int]
_MAX_BETTING_PIXELS = 1 << 20


@dataclass(frozen=True)
class CalibrationOptions:
    """What is asked of a calibration; checked at once, before any image is looked at.

    Attributes:
        alpha: Risk level, in (0, 1).
        delta: Error level, in (0, 1).
        scaling: Name of a plain set family, or a fitted family; see `calibrate`, also for the rest.
        ucb: Name of the bound; None = the recommended one.
        unit: What counts as one loss; None = groups where there are any, else images.
        lambda_grid: Official scan.
        order_seed: Seed of the order in which losses are bet on; None = the order given.

    Raises:
        ConfigError: If alpha, delta, a name or the grid is invalid, or bound and unit do not go together.
    """

    alpha: float = DEFAULT_ALPHA
    delta: float = DEFAULT_DELTA
    scaling: str | Family = DEFAULT_SCALING
    ucb: BoundName | None = None
    unit: UnitName | None = None
    lambda_grid: LambdaGrid | None = None
    order_seed: int | None = ORDER_SEED

    def __post_init__(self) -> None:
        check_level("alpha", self.alpha)
        check_level("delta", self.delta)
        bound, _ = get_bound(self.bound_name), get_family(self.scaling)
        if self.unit not in (None, *UNITS):
            raise ConfigError(f"unit = {self.unit!r}: must be one of {', '.join(UNITS)}")
        if self.unit == "pixel" and isinstance(bound, VarianceBound | StarBound):
            raise ConfigError(
                f"ucb = {self.bound_name!r} with unit = 'pixel': it needs the losses of the units, so choose unit"
                " 'image' or 'group', or a bound of the mean such as 'hoeffding_bentkus'"
            )
        if self.lambda_grid is not None:
            _grid_points(self.lambda_grid)

    @property
    def bound_name(self) -> BoundName:
        """Name of the bound that is used."""
        return self.ucb or RECOMMENDED_BOUND


def calibrate(
    lower: ArrayLike,
    upper: ArrayLike,
    target: ArrayLike,
    *,
    alpha: float = DEFAULT_ALPHA,
    delta: float = DEFAULT_DELTA,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    groups: GroupLabels | None = None,
    scaling: str | Family = DEFAULT_SCALING,
    ucb: BoundName | None = None,
    unit: UnitName | None = None,
    lambda_grid: LambdaGrid | None = None,
    order_seed: int | None = ORDER_SEED,
) -> Calibration:
    """Find the smallest scale lambda_hat whose risk is at most alpha with probability at least 1 - delta.

    lambda_hat is the smallest critical value such that at it and at every larger lambda the upper confidence bound of
    the risk is at most alpha; it is exact. Bounds of the mean and "star" are monotone in lambda. The betting bound
    "wsr" and those that use the sample variance need not be, as smaller losses can spread more; stretches of lambda are
    accepted only if every point in them passes.
    Targets outside [0, 1] count as missed at every lambda, because sets are clamped to [0, 1]. zarr arrays are read
    in blocks, twice, after a sample of them; memory is bounded.

    Args:
        lower: (N, C, H, W) lower bounds in [0, 1], units in any order; NumPy array, torch tensor or zarr
            array.
        upper: Upper bounds, same shape. Where upper < lower a pixel counts as covered only if both ends hold.
        target: Truth, same shape, in [0, 1].
        alpha: Risk level, in (0, 1).
        delta: Error level, in (0, 1).
        mask: Same shape, or (N, 1, H, W), of 0 and 1; pixels where it is 1 are evaluated. None evaluates all.
        weights: Same shape, or (N, 1, H, W); finite, >= 0, in any unit. The loss of an image is then the weighted mean
            of its misses, by weights rounded to 2^-53 of their sum over the image; 0 leaves a pixel out as the mask
            does. They must not depend on the calibration truths. A shape is fitted without weights, which costs width
            but not the guarantee. None weighs all alike.
        groups: (N,) group label of each image; images of a group may depend on each other.
        scaling: "multiplicative", "additive" or "interval", or a `Family` whose shape was fitted on other images.
        ucb: "star", "wsr", "hoeffding_bentkus", "bentkus", "hoeffding" or "empirical_bernstein", which hold for any
            number of units; or, with a weaker guarantee (`RiskBound.strength`), "clt" (only in the limit of many
            units), "conformal_risk_control" (the risk is at most alpha on average over calibration sets; delta has no
            effect) or "official" (the official code's bound; no guarantee). None = the recommended one, "star".
        unit: One loss per "image", per "group" (mean of its images) or "pixel" (the paper's protocol: no guarantee,
            since pixels of an image depend on each other; not for "star" and the bounds that use the sample
            variance). None = "group" where groups are given, else "image".
        lambda_grid: (start, stop, num); reproduces the official scan of a float32 grid from the top down.
        order_seed: "wsr" and "star" bet on images (or groups) in a random order that depends on this seed and their
            number alone, since arrays may come sorted by anything. None = the order given (of groups: that of their
            first images, or random where groups differ in size), which must not depend on the losses.
    Returns:
        The calibration. On the calibration data its `apply` misses the fraction `.risk`, or less by pixels whose
        critical value exceeds lambda_hat by rounding alone, and by truths of exactly 0 or 1 on which clamping throws a
        reshaped interval that lies wholly outside [0, 1] (only at scales well below that of the fit).
    Raises:
        ConfigError: If alpha, delta, a name or the grid is invalid, or weights come with unit "pixel".
        ShapeError: If shapes do not match.
        DataError: If evaluated values are NaN or infinite, an image has no evaluated pixel, a weight is negative, NaN
            or infinite, a group label is missing, or the mask holds other values than 0 and 1.
        CalibrationError: If no lambda (or no grid point) will do; names the number of units that would be needed.
    Source:
        Bates et al. 2021 (arXiv 2101.02703), section 2; the pixel protocol is that of Horwitz and Hoshen 2022,
        "Conffusion" (arXiv 2211.09795), section 3.
    """
    options = CalibrationOptions(alpha, delta, scaling, ucb, unit, lambda_grid, order_seed)
    return calibrate_images(LabelledBounds(lower, upper, target, mask, groups, weights), options)


def calibrate_images(images: LabelledBounds, options: CalibrationOptions) -> Calibration:
    """`calibrate` with its arrays and its options in one object each; raises the same errors."""
    if options.unit == "pixel" and images.weights is not None:
        raise ConfigError("weights with unit = 'pixel': they weigh the pixels of a unit, so choose 'image' or 'group'")
    bound, family = get_bound(options.bound_name), get_family(options.scaling)
    pixels = Pixels.of(images, family)
    counted = units = make_units(options.unit, pixels.totals(), images.groups)
    if units.name == "pixel" and options.bound_name == "wsr":
        pixels, units = _pixels_as_images(pixels, units)
    if options.order_seed is not None:
        units = units.shuffled(options.order_seed)
    risk_test = RiskTest(units, bound, Level(options.alpha, options.delta, units.n_bound))
    if options.lambda_grid is None:
        found = smallest_passing(pixels, risk_test)
    else:
        found = _scan(pixels, risk_test, options.lambda_grid, is_official=options.bound_name == "official")
    losses = units.losses(found.counts[:, None])[:, 0]
    if found.lambda_hat is None:
        raise CalibrationError(shortfall(risk_test, losses, "at any lambda"))
    return Calibration(
        lambda_hat=found.lambda_hat, risk=float(losses.mean()), risk_ucb=bound.value(losses, risk_test.level),
        n=units.n_bound, alpha=options.alpha, delta=options.delta, scaling=family.name, ucb=options.bound_name,
        unit=counted.name, n_images=images.n_images, shape=family.shape,
    )  # fmt: skip


def _scan(pixels: Pixels, risk_test: RiskTest, lambda_grid: LambdaGrid, *, is_official: bool) -> SearchResult:
    """The official scan: the last grid point, from the top down, before the first that fails.

    Official quirk kept: with ucb "official" a point below the top whose risk is exactly 0 fails.
    """
    grid = _grid_points(lambda_grid)
    counts = pixels.count_above(grid)
    losses = risk_test.units.losses(counts)
    passes = risk_test.bound.passes(losses, risk_test.level)
    if is_official:
        passes[:-1] &= losses.mean(axis=0)[:-1] > 0.0
    if not passes[-1]:
        raise CalibrationError(shortfall(risk_test, losses[:, -1], f"at the top of the grid, lambda = {grid[-1]:g}"))
    failing = np.flatnonzero(~passes)
    if not failing.size:
        raise CalibrationError(
            f"every lambda of the grid from {grid[-1]:g} down to {lambda_grid[0]:g} passes, so the grid ends without"
            " lambda_hat: lower its start, or leave lambda_grid out"
        )
    return SearchResult(float(grid[failing[-1] + 1]), counts[:, failing[-1] + 1])


def _grid_points(lambda_grid: LambdaGrid) -> FloatArray:
    """float32 grid as float64, with one point below the start, at which the official scan still looks."""
    start, stop, num = lambda_grid
    if not (num >= 2 and math.isfinite(start) and start < stop < math.inf):
        raise ConfigError(f"lambda_grid = {lambda_grid}: must be (start, stop, num) with start < stop and num >= 2")
    grid = np.linspace(start, stop, num, dtype=np.float32)
    return np.concatenate([[2 * grid[0] - grid[1]], grid]).astype(np.float64)


def _pixels_as_images(pixels: Pixels, units: Units) -> tuple[Pixels, Units]:
    """Every evaluated pixel as an image of its own: one loss, 0 or 1, per pixel in array order."""
    n_pixels = units.n_bound
    if n_pixels > _MAX_BETTING_PIXELS:
        raise ConfigError(
            f"ucb = 'wsr' with unit = 'pixel' takes at most {_MAX_BETTING_PIXELS} pixel values, got {n_pixels}:"
            " choose unit 'image' or 'group', or the bound 'hoeffding_bentkus' or 'official'"
        )
    blocks = list(pixels.blocks())
    columns = [np.concatenate([getattr(block, name) for block in blocks]) for name in ("lower", "upper", "target")]
    flat = LabelledBounds(*(column[:, None] for column in columns))
    return Pixels(flat, pixels.scaling), Units("image", np.ones(n_pixels, dtype=np.int64))
