"""Guarantees other than that of the mean risk, and several of them at once.

Each guarantee is about images that are drawn like the calibration images, and fails with a small probability over
calibration sets. Its loss falls when intervals grow, so it still holds at a scale that is enlarged for another: at the
largest scale all of them hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

from conffusion.calibration.families import Family, get_family
from conffusion.calibration.guarantee_parts import GuaranteedImages, GuaranteePart, Split
from conffusion.calibration.pixels import Pixels
from conffusion.calibration.record import Calibration
from conffusion.calibration.risk_bounds import finite_sample_bound
from conffusion.calibration.ucb import check_level
from conffusion.core.arrays import ArrayLike, GroupLabels
from conffusion.core.choices import (
    DEFAULT_ALPHA,
    DEFAULT_DELTA,
    DEFAULT_SCALING,
    ORDER_SEED,
    RECOMMENDED_BOUND,
    BoundName,
)
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import ConfigError


@dataclass(frozen=True)
class MeanRisk:
    """A new image misses at most the share `alpha` of its evaluated pixels on average over new images.

    With groups: on average over new groups, each with the mean of its images. The guarantee of `calibrate`.

    Attributes:
        alpha: Risk level, in (0, 1).
    """

    alpha: float = DEFAULT_ALPHA

    def __post_init__(self) -> None:
        check_level("alpha", self.alpha)

    def _parts(self, images: GuaranteedImages, delta: float) -> list[GuaranteePart]:
        """The scale at which it holds, as the only part."""
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

    alpha: float = DEFAULT_ALPHA
    quarter: int = 4

    def __post_init__(self) -> None:
        check_level("alpha", self.alpha)
        if self.quarter not in (1, 2, 3, 4):
            raise ConfigError(f"quarter = {self.quarter}: must be 1 (narrowest), 2, 3 or 4 (widest)")

    def _parts(self, images: GuaranteedImages, delta: float) -> list[GuaranteePart]:
        """The scale at which it holds, as the only part."""
        return [images.mean_part(repr(self), images.quarter(self.quarter), self.alpha, delta)]


@dataclass(frozen=True)
class EveryGroup:
    """For each label (scanner, class): `MeanRisk` on average over new images that carry this label, all labels at once.

    Speaks of the labels among the calibration images only; which of them occur, and how often, is taken as given.

    Attributes:
        alpha: Risk level, in (0, 1).
    """

    alpha: float = DEFAULT_ALPHA

    def __post_init__(self) -> None:
        check_level("alpha", self.alpha)

    def _parts(self, images: GuaranteedImages, delta: float) -> list[GuaranteePart]:
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

    def _parts(self, images: GuaranteedImages, delta: float) -> list[GuaranteePart]:
        """The scale at which it holds, as the only part."""
        return [images.quantile_part(repr(self), self.pixel_share, self.image_share, delta)]


AnyGuarantee: TypeAlias = MeanRisk | WidestQuarter | EveryGroup | ImageQuantile


@dataclass(frozen=True)
class Guarantees:
    """A scale at which several guarantees hold at once.

    Attributes:
        lambda_hat: Scale to apply: the largest of the parts.
        parts: One entry for each guarantee, or for each label of `EveryGroup`, in the order given.
        delta: Probability, over calibration sets, that any of the guarantees fails at lambda_hat.
        scaling: The set family, as given.
        ucb: Name of the bound asked for.
        split: How delta was divided among the parts.
        n_images: Number of calibration images.
    """

    lambda_hat: float
    parts: tuple[GuaranteePart, ...]
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


def calibrate_guarantees(
    lower: ArrayLike,
    upper: ArrayLike,
    target: ArrayLike,
    guarantees: Sequence[AnyGuarantee],
    *,
    delta: float = DEFAULT_DELTA,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    groups: GroupLabels | None = None,
    labels: GroupLabels | None = None,
    scaling: str | Family = DEFAULT_SCALING,
    ucb: BoundName | None = None,
    split: Split = "bonferroni",
    order_seed: int | None = ORDER_SEED,
) -> Guarantees:
    """Find the smallest scale at which all guarantees hold at once, with probability at least 1 - delta.

    By default each of K guarantees is calibrated at delta / K, and each of J labels at delta / (K J) (Bonferroni). Then
    every part holds at its lambda_hat, all of them at once, and at the largest all hold on all images.

    With split "none" each part is calibrated at delta itself. At the largest lambda_hat all guarantees still hold at
    once: they fail together only if it falls short of the part that truly needs the largest scale, so only the error
    of this one part counts. At the lambda_hat of any other part its guarantee holds by itself, not together with the
    others.

    Targets outside [0, 1] count as missed at every lambda. zarr arrays are read in blocks, a few times for each part;
    `WidestQuarter` holds a mask of one byte per pixel value.

    Args:
        lower: (N, C, H, W) lower bounds in [0, 1], in any order; NumPy array, torch tensor or zarr array.
        upper: Upper bounds, same shape.
        target: Truth, same shape, in [0, 1].
        guarantees: One or more of `MeanRisk`, `WidestQuarter`, `EveryGroup` and `ImageQuantile`.
        delta: Probability that any guarantee fails, in (0, 1).
        mask: Same shape, or (N, 1, H, W), of 0 and 1; pixels where it is 1 are evaluated. None evaluates all.
        weights: As in `calibrate`; for `MeanRisk` and `EveryGroup` only.
        groups: (N,) group label of each image; images of a group may depend on each other, and a group is one unit.
        labels: (N,) label of each image, for `EveryGroup` only. The images of a group may differ in label.
        scaling: "multiplicative", "additive" or "interval", or a `Family` whose shape was fitted on other images.
        ucb: Bound that holds for any number of units (`RiskBound.strength`); None = the recommended one.
        split: "bonferroni" or "none".
        order_seed: As in `calibrate`.
    Returns:
        The common scale, and the scale of each part.
    Raises:
        ConfigError: If delta or a name is invalid, no guarantee is given, `EveryGroup` comes without labels, the
            bound does not hold for any number of units, or a guarantee cannot take weights.
        ShapeError: If shapes do not match.
        DataError: If evaluated values are NaN or infinite, or an image has too few evaluated pixels.
        CalibrationError: If a part holds at no lambda; names the part and the number of units that would be needed.
    Source:
        Each part: Bates et al. 2021, "Distribution-free, risk-controlling prediction sets" (arXiv 2101.02703),
        section 2. Without a split: as the intersection-union test of Berger 1982, "Multiparameter hypothesis testing
        and acceptance sampling" (Technometrics 24).
    """
    check_level("delta", delta)
    if split not in ("bonferroni", "none"):
        raise ConfigError(f"split = {split!r}: must be 'bonferroni' or 'none'")
    _check_guarantees(guarantees, has_weights=weights is not None)
    name, family = ucb or RECOMMENDED_BOUND, get_family(scaling)
    finite_sample_bound(name)
    given = LabelledBounds(lower, upper, target, mask, groups, weights)
    images = GuaranteedImages(given, Pixels.of(given, family), labels, name, split, order_seed)
    if any(isinstance(guarantee, EveryGroup) for guarantee in guarantees):
        images.rows_by_label()  # so that wrong labels are told before the search
    share = delta / images.divisor(len(guarantees))
    parts = tuple(part for guarantee in guarantees for part in guarantee._parts(images, share))
    largest = max(part.lambda_hat for part in parts)
    return Guarantees(largest, parts, delta, scaling, name, split, given.n_images)


def _check_guarantees(guarantees: Sequence[AnyGuarantee], *, has_weights: bool) -> None:
    kinds = get_args(AnyGuarantee)
    if not isinstance(guarantees, Sequence) or not len(guarantees):
        raise ConfigError(f"guarantees = {guarantees!r}: must be a list of at least one, such as [MeanRisk(alpha=0.1)]")
    for guarantee in guarantees:
        if not isinstance(guarantee, kinds):
            raise ConfigError(f"guarantee {guarantee!r}: must be one of {', '.join(kind.__name__ for kind in kinds)}")
        if has_weights and not isinstance(guarantee, MeanRisk | EveryGroup):
            raise ConfigError(f"{guarantee!r} counts pixels and cannot take weights: use the mask, or MeanRisk")


# Former names, which stay importable.
calibrate_promises = calibrate_guarantees
Promises = Guarantees
PromisePart = GuaranteePart
