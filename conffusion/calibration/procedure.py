"""Calibration: the smallest scale whose risk is bounded by alpha with probability 1 - delta."""

import math
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from conffusion.calibration.families import Family, get_family
from conffusion.calibration.pixels import Pixels, open_pixels
from conffusion.calibration.record import Calibration
from conffusion.calibration.rules import Level, StarRule, VarianceRule, get_rule
from conffusion.calibration.search import Found, Question, smallest_passing
from conffusion.calibration.shortfall import shortfall
from conffusion.calibration.ucb import check_level
from conffusion.calibration.units import Units, make_units
from conffusion.core.arrays import ArrayLike, FloatArray, GroupLabels, as_numpy
from conffusion.core.choices import BoundName, UnitName
from conffusion.errors import CalibrationError, ConfigError

LambdaGrid: TypeAlias = tuple[float, float, int]
_MAX_BETTING_PIXELS = 1 << 20


def calibrate(
    lower: ArrayLike,
    upper: ArrayLike,
    target: ArrayLike,
    *,
    alpha: float,
    delta: float,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    groups: GroupLabels | None = None,
    scaling: str | Family = "multiplicative",
    ucb: BoundName = "wsr",
    unit: UnitName | None = None,
    lambda_grid: LambdaGrid | None = None,
    order_seed: int | None = None,
) -> Calibration:
    """Find the smallest scale lambda_hat whose risk is at most alpha with probability at least 1 - delta.

    lambda_hat is the smallest critical value such that at it and at every larger lambda the upper confidence bound of
    the risk is at most alpha; it is exact. Bounds of the mean and "star" are monotone in lambda. The betting bound
    "wsr" and those that use the sample variance need not be, as smaller losses can spread more; stretches of lambda are
    accepted only if every point in them passes.
    Targets outside [0, 1] count as missed at every lambda, because sets are clamped to [0, 1]. zarr arrays are read
    in blocks, twice, after a sample of them; memory is bounded.

    Args:
        lower: (N, C, H, W) lower bounds in [0, 1], units in the order in which "wsr" and "star" shall take their
            losses; NumPy array, torch tensor or zarr array.
        upper: Upper bounds, same shape. Where upper < lower a pixel counts as covered only if both ends hold.
        target: Truth, same shape, in [0, 1].
        alpha: Risk level, in (0, 1).
        delta: Error level, in (0, 1).
        mask: Same shape, or (N, 1, H, W), of 0 and 1; pixels where it is 1 are evaluated. None evaluates all.
        weights: Same shape, or (N, 1, H, W); finite, >= 0, in any unit. The loss of an image is then the weighted mean
            of its misses, by weights rounded to 2^-53 of their sum over the image; 0 leaves a pixel out as the mask
            does. They must not depend on the calibration truths. A shape is fitted without weights, which costs width
            but not the promise. None weighs all alike.
        groups: (N,) group label of each image; images of a group may depend on each other. Their order, which "wsr" and
            "star" depend on, is that of their first images, or random where groups differ in size.
        scaling: "multiplicative", "additive" or "interval", or a `Family` whose shape was fitted on other images.
        ucb: "wsr", "star", "hoeffding_bentkus", "bentkus", "hoeffding" or "empirical_bernstein", which keep the promise
            for any number of units; or, with less to promise (`Rule.promise`), "clt" (only in the limit of many units),
            "conformal_risk_control" (the risk is at most alpha on average over calibration sets; delta has no effect)
            or "official" (the official code's bound; no guarantee).
        unit: One loss per "image", per "group" (mean of its images) or "pixel" (the paper's protocol: no guarantee,
            since pixels of an image depend on each other; not for "star" and the bounds that use the sample
            variance). None = "group" where groups are given, else "image".
        lambda_grid: (start, stop, num); reproduces the official scan of a float32 grid from the top down.
        order_seed: Puts images (or groups) into a random order before "wsr" and "star" bet on them, for arrays that are
            sorted by anything: a stack by dose or by time breaks the promise as given. None = the order given.
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
    check_level("alpha", alpha)
    check_level("delta", delta)
    rule = get_rule(ucb)
    if unit == "pixel" and isinstance(rule, VarianceRule | StarRule):
        raise ConfigError(
            f"ucb = {ucb!r} with unit = 'pixel': it needs the losses of the units, so choose unit 'image' or 'group',"
            " or a bound of the mean such as 'hoeffding_bentkus'"
        )
    family = get_family(scaling)
    if unit == "pixel" and weights is not None:
        raise ConfigError("weights with unit = 'pixel': they weigh the pixels of a unit, so choose 'image' or 'group'")
    pixels = open_pixels(lower, upper, target, mask, family, weights)
    units = make_units(unit, pixels.totals(), groups)
    units = units if order_seed is None else units.shuffled(order_seed)
    name, n_images = units.name, units.n_images
    if name == "pixel" and ucb == "wsr":
        pixels, units = _pixels_as_images(pixels, units)
    question = Question(units, rule, Level(alpha, delta, units.n_bound))
    found = smallest_passing(pixels, question) if lambda_grid is None else _scan(pixels, question, lambda_grid, ucb)
    losses = units.losses(found.counts[:, None])[:, 0]
    if found.lambda_hat is None:
        raise CalibrationError(shortfall(question, losses, "at any lambda"))
    bound = rule.bound(losses, question.level)
    promise = (units.n_bound, alpha, delta, family.name, ucb, name, n_images, family.shape)
    return Calibration(found.lambda_hat, float(losses.mean()), bound, *promise)


def _scan(pixels: Pixels, question: Question, lambda_grid: LambdaGrid, ucb: str) -> Found:
    """The official scan: the last grid point, from the top down, before the first that fails.

    Official quirk kept: with ucb "official" a point below the top whose risk is exactly 0 fails.
    """
    grid = _grid_points(lambda_grid)
    counts = pixels.count_above(grid)
    losses = question.units.losses(counts)
    passes = question.rule.passes(losses, question.level)
    if ucb == "official":
        passes[:-1] &= losses.mean(axis=0)[:-1] > 0.0
    if not passes[-1]:
        raise CalibrationError(shortfall(question, losses[:, -1], f"at the top of the grid, lambda = {grid[-1]:g}"))
    failing = np.flatnonzero(~passes)
    if not failing.size:
        raise CalibrationError(
            f"every lambda of the grid from {grid[-1]:g} down to {lambda_grid[0]:g} passes, so the grid ends without"
            " lambda_hat: lower its start, or leave lambda_grid out"
        )
    return Found(float(grid[failing[-1] + 1]), counts[:, failing[-1] + 1])


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
    pixels = pixels.reshaped()
    chosen = np.ones(pixels.target.shape, bool) if pixels.mask is None else as_numpy(pixels.mask) == 1
    chosen = np.broadcast_to(chosen, pixels.target.shape)
    arrays = [as_numpy(array)[chosen].reshape(-1, 1) for array in (pixels.lower, pixels.upper, pixels.target)]
    flat = replace(pixels, lower=arrays[0], upper=arrays[1], target=arrays[2], mask=None)
    return flat, Units("image", np.ones(n_pixels, dtype=np.int64))
