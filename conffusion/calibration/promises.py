"""Promises other than the mean risk, and several of them at once.

Each promise is about images that are drawn like the calibration images, and fails with a small probability over
calibration sets. Its loss falls when intervals grow, so a scale that keeps one promise keeps it when enlarged for
another: the largest scale keeps them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from conffusion.calibration.families import Family, get_family
from conffusion.calibration.pixels import open_pixels
from conffusion.calibration.promise_parts import PromiseImages, PromisePart, Split
from conffusion.calibration.record import Calibration
from conffusion.calibration.rules import finite_sample_rule
from conffusion.calibration.ucb import check_level
from conffusion.core.arrays import ArrayLike, GroupLabels
from conffusion.core.choices import BoundName
from conffusion.errors import ConfigError


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

    def _parts(self, images: PromiseImages, delta: float) -> list[PromisePart]:
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

    def _parts(self, images: PromiseImages, delta: float) -> list[PromisePart]:
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

    def _parts(self, images: PromiseImages, delta: float) -> list[PromisePart]:
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

    def _parts(self, images: PromiseImages, delta: float) -> list[PromisePart]:
        """The scale that keeps the promise, as the only part."""
        return [images.quantile_part(repr(self), self.pixel_share, self.image_share, delta)]


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
    ucb: BoundName
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
    ucb: BoundName = "wsr",
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
    images = PromiseImages((lower, upper), pixels, groups, labels, ucb, split)
    if any(isinstance(promise, EveryGroup) for promise in promises):
        images.rows_by_label()  # so that wrong labels are told before the search
    share = delta / images.divisor(len(promises))
    parts = tuple(part for promise in promises for part in promise._parts(images, share))
    largest = max(part.lambda_hat for part in parts)
    return Promises(largest, parts, delta, scaling, ucb, split, int(target.shape[0]))


def _check_promises(promises: Sequence[AnyPromise]) -> None:
    kinds = (MeanRisk, WidestQuarter, EveryGroup, ImageQuantile)
    if not isinstance(promises, Sequence) or not len(promises):
        raise ConfigError(f"promises = {promises!r}: must be a list of at least one, such as [MeanRisk(alpha=0.1)]")
    for promise in promises:
        if not isinstance(promise, kinds):
            raise ConfigError(f"promise {promise!r}: must be one of {', '.join(kind.__name__ for kind in kinds)}")
