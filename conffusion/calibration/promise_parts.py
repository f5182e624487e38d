"""How one promise is calibrated: which losses its units have, and the smallest scale at which a bound keeps them."""

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import special

from conffusion.calibration.pixels import Pixels
from conffusion.calibration.rules import Level, MeanRule, get_rule
from conffusion.calibration.search import Found, Question, smallest_passing
from conffusion.calibration.shortfall import missing
from conffusion.calibration.ucb import round_down
from conffusion.calibration.units import Counts, Units, index_by_appearance, make_units
from conffusion.core.arrays import ArrayLike, BoolArray, FloatArray, GroupLabels, IntArray, as_numpy
from conffusion.core.choices import BoundName, UnitName
from conffusion.errors import CalibrationError, ConfigError, DataError, ShapeError

Split: TypeAlias = Literal["bonferroni", "none"]
_FEWEST_PIXELS = 4  # of an image that is divided into quarters


@dataclass(frozen=True)
class PromisePart:
    """One promise, or one label of `EveryGroup`, and the scale that keeps it.

    Attributes:
        name: The promise as written, with the label where there is one.
        lambda_hat: Smallest scale that keeps this part.
        risk: Mean loss of the calibration units at this lambda_hat, in [0, 1].
        risk_ucb: Upper confidence bound of the risk at this lambda_hat, at most alpha.
        alpha: Promised level of the risk (for `ImageQuantile` its image_share).
        delta: Error level of this part.
        n: Number of units given to the bound.
        unit: "image" or "group".
        ucb: Name of the bound; "clopper_pearson" where the losses are 0 or 1.
    """

    name: str
    lambda_hat: float
    risk: float
    risk_ucb: float
    alpha: float
    delta: float
    n: int
    unit: UnitName
    ucb: str


@dataclass(frozen=True)
class PromiseImages:
    """The calibration images, their bounds (lower, upper) as given, and how their promises are judged."""

    bounds: tuple[ArrayLike, ArrayLike]
    pixels: Pixels
    groups: GroupLabels | None
    labels: GroupLabels | None
    ucb: BoundName
    split: Split

    def divisor(self, n_parts: int) -> int:
        """What delta is divided by for n_parts parts."""
        return n_parts if self.split == "bonferroni" else 1

    def units(self, pixels: Pixels) -> Units:
        """The units whose losses these pixels make."""
        return make_units(None, pixels.totals(), self.groups)

    def mean_part(
        self, name: str, pixels: Pixels, alpha: float, delta: float, rows: IntArray | None = None
    ) -> PromisePart:
        """Promise on the mean loss of all units, or of those that the images `rows` make."""
        units = self.units(pixels)
        if rows is not None:
            groups = None if self.groups is None else as_numpy(self.groups)[rows]
            within = make_units(None, units.n_pixels[rows], groups)
            units = _UnitsOfRows(units.name, units.n_pixels, within=within, rows=rows)
        question = Question(units, get_rule(self.ucb), Level(alpha, delta, units.n_bound))
        return _part(name, question, smallest_passing(pixels, question), self.ucb)

    def quantile_part(self, name: str, pixel_share: float, image_share: float, delta: float) -> PromisePart:
        """Promise on the share of images that miss more than pixel_share of their pixels."""
        units, values = self.units(self.pixels), self.critical(pixel_share)
        binary = units.n_units == units.n_images
        rule, ucb = (_CLOPPER_PEARSON, "clopper_pearson") if binary else (get_rule(self.ucb), self.ucb)
        one_each = replace(units, n_pixels=np.ones_like(units.n_pixels))
        question = Question(one_each, rule, Level(image_share, delta, units.n_bound))
        return _part(name, question, _smallest_of(values, question), ucb)

    def rows_by_label(self) -> dict[Any, IntArray]:
        """Images of each label, in order of first appearance."""
        if self.labels is None:
            raise ConfigError("EveryGroup needs labels, one for each image")
        labels, n_images = as_numpy(self.labels), self.pixels.n_images
        if labels.shape != (n_images,):
            raise ShapeError(f"labels has shape {labels.shape}: one label for each of {n_images} images is needed")
        index = index_by_appearance(labels, n_images)
        rows_of = [np.flatnonzero(index == k) for k in range(int(index.max()) + 1)]
        return {labels[rows].tolist()[0]: rows for rows in rows_of}

    def quarter(self, quarter: int) -> Pixels:
        """The evaluated pixels in a quarter of size of their image."""
        chosen, given = np.zeros(tuple(self.pixels.target.shape), dtype=bool), self.pixels.mask
        for rows in self.pixels.slices():
            lower, upper = (as_numpy(part[rows]) for part in self.bounds)
            mask = np.ones_like(upper[:, :1]) if given is None else as_numpy(given[rows])
            for k, image in enumerate(chosen[rows]):
                within = np.broadcast_to(mask[k] == 1, image.shape)
                sizes = upper[k][within].astype(np.float64) - lower[k][within]
                image[within] = _in_quarter(sizes, quarter, rows.start + k)
        return replace(self.pixels, mask=chosen)

    def critical(self, pixel_share: float) -> FloatArray:
        """(N,) smallest lambda at which each image misses at most the share pixel_share of its evaluated pixels."""
        values = np.empty(self.pixels.n_images)
        for block in self.pixels.blocks():
            critical = self.pixels.critical(block)
            for row, part in enumerate(np.split(critical, block.ends[:-1])):
                values[block.rows.start + row] = _order_statistic(part, pixel_share)
        return values


@dataclass(frozen=True, kw_only=True)
class _UnitsOfRows(Units):
    """Units that the images `rows` make; counts still come for all images."""

    within: Units
    rows: IntArray

    @property
    def n_units(self) -> int:
        return self.within.n_units

    @property
    def n_bound(self) -> int:
        return self.within.n_bound

    def losses(self, counts: Counts) -> FloatArray:
        return self.within.losses(counts[self.rows])


def _in_quarter(sizes: FloatArray, quarter: int, image: int) -> BoolArray:
    """Which of an image's evaluated pixels are in a quarter of size."""
    n_pixels = len(sizes)
    if n_pixels < _FEWEST_PIXELS:
        raise DataError(f"image {image} has {n_pixels} evaluated pixels: quarters need at least 4, leave the image out")
    if not np.isfinite(sizes).all():
        raise DataError(f"lower or upper has evaluated values that are NaN or infinite in image {image}: replace them")
    below = _smallest(sizes, quarter * n_pixels // 4)
    return below & ~_smallest(sizes, (quarter - 1) * n_pixels // 4)


def _smallest(sizes: FloatArray, count: int) -> BoolArray:
    """The `count` smallest sizes; of equal ones the first."""
    if count == 0:
        return np.zeros(len(sizes), dtype=bool)
    edge = np.partition(sizes, count - 1)[count - 1]
    chosen = sizes < edge
    chosen[np.flatnonzero(sizes == edge)[: count - int(chosen.sum())]] = True
    return chosen


def _order_statistic(critical: FloatArray, pixel_share: float) -> float:
    """Smallest lambda at which at most the share pixel_share of critical values is larger."""
    n_missed = min(int(round_down(pixel_share * len(critical))), len(critical) - 1)
    place = len(critical) - 1 - n_missed
    return float(np.partition(critical, place)[place])


def _smallest_of(values: FloatArray, question: Question) -> Found:
    """As `smallest_passing` where each image has one critical value: every one is tried, from the largest down."""
    scales, best = np.unique(values[values < np.inf]), np.inf
    for stop in range(len(scales), 0, -question.n_edges):
        tried = scales[max(0, stop - question.n_edges) : stop]
        failing = np.flatnonzero(~question.passes((values[:, None] > tried).astype(np.int64)))
        first = int(failing[-1]) + 1 if failing.size else 0
        if first < len(tried):
            best = tried[first]
        if failing.size:
            break
    if best == np.inf:
        return Found(None, (values == np.inf).astype(np.int64))
    return Found(float(best), (values > best).astype(np.int64))


def _clopper_pearson_ucb(mean: float, n: int, delta: float) -> float:
    """Largest mu at which P(Bin(n, mu) <= n mean) is at least delta; n mean is an integer."""
    count = round(n * mean)
    return float(special.betainccinv(count + 1.0, n - count, delta)) if count < n else 1.0


def _clopper_pearson_tail(means: FloatArray, n: int | FloatArray, alpha: float) -> FloatArray:
    """P(Bin(n, alpha) <= n mean)."""
    counts = np.rint(n * np.asarray(means))
    below = np.minimum(counts, np.asarray(n) - 1.0)
    return np.where(counts < n, special.betaincc(below + 1.0, n - below, alpha), 1.0)


_CLOPPER_PEARSON = MeanRule(_clopper_pearson_ucb, _clopper_pearson_tail, "finite_sample")


def _part(name: str, question: Question, found: Found, ucb: str) -> PromisePart:
    """The part of the result, from the answer of the search."""
    level, rule = question.level, question.rule
    losses = question.units.losses(found.counts[:, None])[:, 0]
    if found.lambda_hat is None:
        why = missing(rule, losses, level, question.units.name, "at any lambda")
        raise CalibrationError(f"{name}: no lambda_hat: {why}")
    risk, bound = float(losses.mean()), rule.bound(losses, level)
    return PromisePart(name, found.lambda_hat, risk, bound, level.alpha, level.delta, level.n, question.units.name, ucb)
