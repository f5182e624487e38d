"""How one guarantee is calibrated: which losses its units have, and the smallest scale at which their bound passes."""

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import special

from conffusion.calibration.pixels import Pixels
from conffusion.calibration.risk_bounds import Level, MeanBound, get_bound
from conffusion.calibration.search import RiskTest, SearchResult, smallest_passing
from conffusion.calibration.shortfall import missing
from conffusion.calibration.ucb import round_down
from conffusion.calibration.units import Counts, Units, index_by_appearance, make_units
from conffusion.core.arrays import BoolArray, FloatArray, GroupLabels, IntArray, as_numpy
from conffusion.core.choices import BoundName, UnitName
from conffusion.core.labelled_bounds import LabelledBounds, check_labels
from conffusion.errors import CalibrationError, ConfigError, DataError

Split: TypeAlias = Literal["bonferroni", "none"]
_FEWEST_PIXELS = 4  # of an image that is divided into quarters


@dataclass(frozen=True)
class GuaranteePart:
    """One guarantee, or one label of `EveryGroup`, and its scale.

    Attributes:
        name: The guarantee as written, with the label where there is one.
        lambda_hat: Smallest scale at which this part holds.
        risk: Mean loss of the calibration units at this lambda_hat, in [0, 1].
        risk_ucb: Upper confidence bound of the risk at this lambda_hat, at most alpha.
        alpha: Level of the risk (for `ImageQuantile` its image_share).
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
class GuaranteedImages:
    """The calibration images, and how their losses are judged.

    Attributes:
        images: Bounds and truth as given.
        pixels: The same under the set family.
        labels: (N,) labels for `EveryGroup`, or None.
        ucb: Name of the bound.
        split: How delta is divided.
        order_seed: Seed of the order in which losses are bet on; None = the order given.
    """

    images: LabelledBounds
    pixels: Pixels
    labels: GroupLabels | None
    ucb: BoundName
    split: Split
    order_seed: int | None

    def divisor(self, n_parts: int) -> int:
        """What delta is divided by for n_parts parts."""
        return n_parts if self.split == "bonferroni" else 1

    def units(self, pixels: Pixels) -> Units:
        """The units whose losses these pixels make."""
        return self._ordered(make_units(None, pixels.totals(), self.images.groups))

    def _ordered(self, units: Units) -> Units:
        return units if self.order_seed is None else units.shuffled(self.order_seed)

    def mean_part(
        self, name: str, pixels: Pixels, alpha: float, delta: float, rows: IntArray | None = None
    ) -> GuaranteePart:
        """Guarantee on the mean loss of all units, or of those that the images `rows` make."""
        units = self.units(pixels)
        if rows is not None:
            groups = None if self.images.groups is None else as_numpy(self.images.groups)[rows]
            within = self._ordered(make_units(None, units.n_pixels[rows], groups))
            units = _UnitsOfRows(units.name, units.n_pixels, within=within, rows=rows)
        risk_test = RiskTest(units, get_bound(self.ucb), Level(alpha, delta, units.n_bound))
        return _part(name, risk_test, smallest_passing(pixels, risk_test), self.ucb)

    def quantile_part(self, name: str, pixel_share: float, image_share: float, delta: float) -> GuaranteePart:
        """Guarantee on the share of images that miss more than pixel_share of their pixels."""
        units, values = self.units(self.pixels), self.critical(pixel_share)
        binary = units.n_units == units.n_images
        bound, ucb = (_CLOPPER_PEARSON, "clopper_pearson") if binary else (get_bound(self.ucb), self.ucb)
        one_each = replace(units, n_pixels=np.ones_like(units.n_pixels))
        risk_test = RiskTest(one_each, bound, Level(image_share, delta, units.n_bound))
        return _part(name, risk_test, _smallest_of(values, risk_test), ucb)

    def rows_by_label(self) -> dict[Any, IntArray]:
        """Images of each label, in order of first appearance."""
        if self.labels is None:
            raise ConfigError("EveryGroup needs labels, one for each image")
        labels = check_labels("labels", self.labels, self.images.n_images)
        index = index_by_appearance(labels, len(labels))
        rows_of = [np.flatnonzero(index == k) for k in range(int(index.max()) + 1)]
        return {labels[rows].tolist()[0]: rows for rows in rows_of}

    def quarter(self, quarter: int) -> Pixels:
        """The evaluated pixels in a quarter of size of their image."""
        chosen = np.zeros(self.images.shape, dtype=bool)
        for block in self.images.blocks():
            for image, row in enumerate(range(block.rows.start, block.rows.stop)):
                within = block.evaluated[image]
                sizes = block.upper[image][within].astype(np.float64) - block.lower[image][within]
                chosen[row][within] = _in_quarter(sizes, quarter, row)
        return replace(self.pixels, images=replace(self.pixels.images, mask=chosen))

    def critical(self, pixel_share: float) -> FloatArray:
        """(N,) smallest lambda at which each image misses at most the share pixel_share of its evaluated pixels."""
        values = np.empty(self.images.n_images)
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


def _smallest_of(values: FloatArray, risk_test: RiskTest) -> SearchResult:
    """As `smallest_passing` where each image has one critical value: every one is tried, from the largest down."""
    scales, best = np.unique(values[values < np.inf]), np.inf
    for stop in range(len(scales), 0, -risk_test.n_edges):
        tried = scales[max(0, stop - risk_test.n_edges) : stop]
        failing = np.flatnonzero(~risk_test.passes((values[:, None] > tried).astype(np.int64)))
        first = int(failing[-1]) + 1 if failing.size else 0
        if first < len(tried):
            best = tried[first]
        if failing.size:
            break
    if best == np.inf:
        return SearchResult(None, (values == np.inf).astype(np.int64))
    return SearchResult(float(best), (values > best).astype(np.int64))


def _clopper_pearson_ucb(mean: float, n: int, delta: float) -> float:
    """Largest mu at which P(Bin(n, mu) <= n mean) is at least delta; n mean is an integer."""
    count = round(n * mean)
    return float(special.betainccinv(count + 1.0, n - count, delta)) if count < n else 1.0


def _clopper_pearson_tail(means: FloatArray, n: int | FloatArray, alpha: float) -> FloatArray:
    """P(Bin(n, alpha) <= n mean)."""
    counts = np.rint(n * np.asarray(means))
    below = np.minimum(counts, np.asarray(n) - 1.0)
    return np.where(counts < n, special.betaincc(below + 1.0, n - below, alpha), 1.0)


_CLOPPER_PEARSON = MeanBound(_clopper_pearson_ucb, _clopper_pearson_tail, "finite_sample")


def _part(name: str, risk_test: RiskTest, found: SearchResult, ucb: str) -> GuaranteePart:
    """The part of the result, from what the search found."""
    level, bound = risk_test.level, risk_test.bound
    losses = risk_test.units.losses(found.counts[:, None])[:, 0]
    if found.lambda_hat is None:
        why = missing(bound, losses, level, risk_test.units.name, "at any lambda")
        raise CalibrationError(f"{name}: no lambda_hat: {why}")
    risk, risk_ucb = float(losses.mean()), bound.value(losses, level)
    return GuaranteePart(
        name, found.lambda_hat, risk, risk_ucb, level.alpha, level.delta, level.n, risk_test.units.name, ucb
    )
