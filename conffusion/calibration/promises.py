"""Promises other than the mean risk, several of them at once, and tests for risks that are not monotone in lambda.

Each promise is about images that are drawn like the calibration images, and fails with a small probability over
calibration sets. Its loss falls when intervals grow, so a scale that keeps one promise keeps it when enlarged for
another: the largest scale keeps them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import special

from conffusion.arrays import ArrayLike, BoolArray, FloatArray, IntArray, as_numpy
from conffusion.calibration.families import Family, get_family
from conffusion.calibration.pixels import Pixels, open_pixels
from conffusion.calibration.procedure import Calibration, UcbName
from conffusion.calibration.rules import Level, MeanRule, finite_sample_rule, get_rule
from conffusion.calibration.search import Found, Question, smallest_passing
from conffusion.calibration.shortfall import missing
from conffusion.calibration.ucb import check_level, round_down
from conffusion.calibration.units import Counts, GroupLabels, UnitName, Units, group_index, make_units
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
class MeanRisk:
    """A new image misses at most the share `alpha` of its evaluated pixels on average over new images.

    With groups: on average over new groups, each with the mean of its images. What `calibrate` promises.

    Attributes:
        alpha: Risk level, in (0, 1).
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_level("alpha", self.alpha)

    def _parts(self, images: "_Images", delta: float) -> list[PromisePart]:
        """The scale that keeps the promise, as the only part."""
        return [images.mean_part(repr(self), images.pixels, self.alpha, delta)]


@dataclass(frozen=True)
class WidestQuarter:
    """At most the share `alpha` of the pixels in one quarter of size is missed, on average over new images.

    The evaluated pixels of each image are ranked by the size upper - lower of their intervals as given. Equal sizes
    are ranked by position, so that quarter q of n pixels holds those of rank (q - 1) n // 4 to q n // 4 - 1, counted
    from 0. As the ranks do not depend on lambda, the loss still falls when lambda grows.

    Attributes:
        alpha: Risk level, in (0, 1).
        quarter: 1 (narrowest) to 4 (widest).

    Source:
        Size-stratified risk of Angelopoulos et al. 2022, "Image-to-image regression with distribution-free uncertainty
        quantification" (arXiv 2202.05265), here within each image.
    """

    alpha: float = 0.1
    quarter: int = 4

    def __post_init__(self) -> None:
        check_level("alpha", self.alpha)
        if self.quarter not in (1, 2, 3, 4):
            raise ConfigError(f"quarter = {self.quarter}: must be 1 (narrowest), 2, 3 or 4 (widest)")

    def _parts(self, images: "_Images", delta: float) -> list[PromisePart]:
        """The scale that keeps the promise, as the only part."""
        return [images.mean_part(repr(self), images.quarter(self.quarter), self.alpha, delta)]


@dataclass(frozen=True)
class EveryGroup:
    """For each label (scanner, class): `MeanRisk` on average over new images that carry this label, all labels at once.

    Speaks of the labels among the calibration images only; which of them occur, and how often, is taken as given.

    Attributes:
        alpha: Risk level, in (0, 1).
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_level("alpha", self.alpha)

    def _parts(self, images: "_Images", delta: float) -> list[PromisePart]:
        """One part for each label, in order of first appearance."""
        rows_of = images.rows_by_label()
        share = delta / images.divisor(len(rows_of))
        return [
            images.mean_part(f"{self!r} label {label!r}", images.pixels, self.alpha, share, rows)
            for label, rows in rows_of.items()
        ]


@dataclass(frozen=True)
class ImageQuantile:
    """At most the share `image_share` of new images misses more than the share `pixel_share` of its evaluated pixels.

    With groups: the share of such images within a group, on average over new groups. Without (or with one image in
    each) every loss is 0 or 1 and their number is binomial; the bound is then that of Clopper and Pearson, whatever
    the `ucb`.

    Attributes:
        pixel_share: Share of its evaluated pixels that an image may miss, in [0, 1).
        image_share: Share of images that may miss more, in (0, 1).

    Source:
        Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial"
        (Biometrika 26), as the bound of Bates et al. 2021 (arXiv 2101.02703), section 2.
    """

    pixel_share: float = 0.1
    image_share: float = 0.05

    def __post_init__(self) -> None:
        check_level("image_share", self.image_share)
        if not 0.0 <= self.pixel_share < 1.0:
            raise ConfigError(f"pixel_share = {self.pixel_share}: must lie in [0, 1)")

    def _parts(self, images: "_Images", delta: float) -> list[PromisePart]:
        """The scale that keeps the promise, as the only part."""
        units, values = images.units(images.pixels), images.critical(self.pixel_share)
        binary = units.n_units == units.n_images
        rule, ucb = (_CLOPPER_PEARSON, "clopper_pearson") if binary else (get_rule(images.ucb), images.ucb)
        one_each = replace(units, n_pixels=np.ones_like(units.n_pixels))
        question = Question(one_each, rule, Level(self.image_share, delta, units.n_bound))
        return [_part(repr(self), question, _smallest_of(values, question), ucb)]


AnyPromise: TypeAlias = MeanRisk | WidestQuarter | EveryGroup | ImageQuantile


@dataclass(frozen=True)
class Promises:
    """A scale that keeps several promises at once.

    Attributes:
        lambda_hat: Scale to apply: the largest of the parts.
        parts: One entry for each promise, or for each label of `EveryGroup`, in the order of the promises.
        delta: Probability, over calibration sets, that at lambda_hat any of the promises fails.
        scaling: The set family, as given.
        ucb: Name of the bound asked for.
        split: How delta was divided among the parts.
        n_images: Number of calibration images.
    """

    lambda_hat: float
    parts: tuple[PromisePart, ...]
    delta: float
    scaling: str | Family
    ucb: UcbName
    split: Split
    n_images: int

    def apply(self, lower: ArrayLike, upper: ArrayLike) -> tuple[Any, Any]:
        """Scale bounds by lambda_hat and clamp them to [0, 1].

        Args:
            lower: Lower bounds, any shape, in [0, 1]; whole images (N, C, H, W) where the family has a shape.
            upper: Upper bounds, same shape.
        Returns:
            (lower, upper), float64, as `Calibration.apply`.
        Raises:
            ShapeError: If the shapes differ.
        """
        last, family = max(self.parts, key=lambda part: part.lambda_hat), get_family(self.scaling)
        return Calibration(
            lambda_hat=self.lambda_hat, risk=last.risk, risk_ucb=last.risk_ucb, n=last.n, alpha=last.alpha,
            delta=self.delta, scaling=family.name, ucb=self.ucb, unit=last.unit, n_images=self.n_images,
            shape=family.shape,
        ).apply(lower, upper)  # fmt: skip


def calibrate_promises(
    lower: ArrayLike,
    upper: ArrayLike,
    target: ArrayLike,
    promises: Sequence[AnyPromise],
    *,
    delta: float,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    groups: GroupLabels | None = None,
    labels: GroupLabels | None = None,
    scaling: str | Family = "multiplicative",
    ucb: UcbName = "wsr",
    split: Split = "bonferroni",
) -> Promises:
    """Find the smallest scale at which all promises hold at once, with probability at least 1 - delta.

    By default each of K promises is calibrated at delta / K, and each of J labels at delta / (K J) (Bonferroni). Then
    the lambda_hat of every part keeps that part, all of them at once, and the largest keeps all on all images.

    With split "none" each part is calibrated at delta itself. The largest lambda_hat still keeps all promises at once:
    they fail together only if it falls short of the part that truly needs the largest scale, so only the error of this
    one part counts. The lambda_hat of any other part keeps its promise by itself, not together with the others.

    Targets outside [0, 1] count as missed at every lambda. zarr arrays are read in blocks, a few times for each part;
    `WidestQuarter` holds a mask of one byte per pixel value.

    Args:
        lower: (N, C, H, W) lower bounds in [0, 1], units in the order in which "wsr" shall take their losses; NumPy
            array, torch tensor or zarr array.
        upper: Upper bounds, same shape.
        target: Truth, same shape, in [0, 1].
        promises: One or more of `MeanRisk`, `WidestQuarter`, `EveryGroup` and `ImageQuantile`.
        delta: Probability that any promise fails, in (0, 1).
        mask: Same shape, or (N, 1, H, W), of 0 and 1; pixels where it is 1 are evaluated. None evaluates all.
        weights: As in `calibrate`; for `MeanRisk` and `EveryGroup` only.
        groups: (N,) group label of each image; images of a group may depend on each other, and a group is one unit.
            Their order matters as in `calibrate`.
        labels: (N,) label of each image, for `EveryGroup` only. The images of a group may differ in label.
        scaling: "multiplicative", "additive" or "interval", or a `Family` whose shape was fitted on other images.
        ucb: Bound that holds for any number of units (`Rule.promise`): "wsr", "hoeffding_bentkus" and others.
        split: "bonferroni" or "none".
    Returns:
        The common scale, and the scale of each part.
    Raises:
        ConfigError: If delta or a name is invalid, no promise is given, `EveryGroup` comes without labels, or the
            bound does not hold for any number of units, or a promise cannot take weights.
        ShapeError: If shapes do not match.
        DataError: If evaluated values are NaN or infinite, or an image has too few evaluated pixels.
        CalibrationError: If no lambda keeps a part; names the part and the number of units that would be needed.
    Source:
        Each part: Bates et al. 2021, "Distribution-free, risk-controlling prediction sets" (arXiv 2101.02703),
        section 2. Without a split: as the intersection-union test of Berger 1982, "Multiparameter hypothesis testing
        and acceptance sampling" (Technometrics 24).
    """
    check_level("delta", delta)
    if split not in ("bonferroni", "none"):
        raise ConfigError(f"split = {split!r}: must be 'bonferroni' or 'none'")
    _check_promises(promises)
    finite_sample_rule(ucb)
    for promise in promises:
        if weights is not None and not isinstance(promise, MeanRisk | EveryGroup):
            raise ConfigError(f"{promise!r} counts pixels and cannot take weights: use the mask, or MeanRisk")
    pixels = open_pixels(lower, upper, target, mask, scaling, weights)
    images = _Images((lower, upper), pixels, groups, labels, ucb, split)
    if any(isinstance(promise, EveryGroup) for promise in promises):
        images.rows_by_label()  # so that wrong labels are told before the search
    share = delta / images.divisor(len(promises))
    parts = tuple(part for promise in promises for part in promise._parts(images, share))
    largest = max(part.lambda_hat for part in parts)
    return Promises(largest, parts, delta, scaling, ucb, split, int(target.shape[0]))


@dataclass(frozen=True)
class _Images:
    """The calibration images, their bounds (lower, upper) as given, and how their promises are judged."""

    bounds: tuple[ArrayLike, ArrayLike]
    pixels: Pixels
    groups: GroupLabels | None
    labels: GroupLabels | None
    ucb: UcbName
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

    def rows_by_label(self) -> dict[Any, IntArray]:
        """Images of each label, in order of first appearance."""
        if self.labels is None:
            raise ConfigError("EveryGroup needs labels, one for each image")
        labels, n_images = as_numpy(self.labels), self.pixels.n_images
        if labels.shape != (n_images,):
            raise ShapeError(f"labels has shape {labels.shape}: one label for each of {n_images} images is needed")
        index = group_index(labels, n_images)
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


def _check_promises(promises: Sequence[AnyPromise]) -> None:
    kinds = (MeanRisk, WidestQuarter, EveryGroup, ImageQuantile)
    if not isinstance(promises, Sequence) or not len(promises):
        raise ConfigError(f"promises = {promises!r}: must be a list of at least one, such as [MeanRisk(alpha=0.1)]")
    for promise in promises:
        if not isinstance(promise, kinds):
            raise ConfigError(f"promise {promise!r}: must be one of {', '.join(kind.__name__ for kind in kinds)}")
