"""What a page shows, wherever it comes from: images, and what each of some methods predicts for them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from conffusion.calibration.guarantee import Guarantee
from conffusion.core.arrays import BoolArray, FloatArray
from conffusion.core.choices import UnitName


@dataclass(frozen=True)
class Side:
    """One of the methods that a page compares, as its calibration and its evaluation record it.

    Attributes:
        label: Name for people; no two sides of a page share one.
        protocol: "guaranteed", "paper", or what the user's own calibration is called.
        alpha: Risk level.
        delta: Error level.
        lambda_hat: Calibrated scale.
        unit: What the bound counted: "image", "group" or "pixel".
        n: How many of them.
        n_images: Calibration images, whatever the unit.
        estimate: "point_head", "mean_of_variants" or "midpoint".
        drift_p_value: Of the drift check of all images together; None where it was not made.
        warnings: Sentences that a user has to see.
    """

    label: str
    protocol: str
    alpha: float
    delta: float
    lambda_hat: float
    unit: UnitName
    n: int
    n_images: int
    estimate: str
    drift_p_value: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def guarantee(self) -> Guarantee:
        """What the calibration guarantees for new images."""
        return Guarantee(self.alpha, self.delta, self.unit, self.n, self.n_images)


@dataclass(frozen=True)
class Prediction:
    """Calibrated intervals of one method for one image.

    Attributes:
        lower: (C, H, W) in [0, 1].
        upper: Same shape, in [0, 1].
        estimate: Same shape, in [0, 1]; None: the midpoint.
        risk: Share of the judged values outside their interval; None without truth.
        size_mean: Mean interval size of the judged values.
        drift_p_value: Of this image alone; None where it was not computed.
        warnings: What was said about this image.
    """

    lower: FloatArray
    upper: FloatArray
    estimate: FloatArray | None
    risk: float | None
    size_mean: float
    drift_p_value: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ViewedImage:
    """An image with the predictions of all methods for it.

    Attributes:
        name: Its name for people; any text.
        predictions: One of each method.
        given: What the methods were shown, (C', H, W) in [0, 1], or None.
        target: The truth, (C, H, W) in [0, 1], or None.
        mask: (H, W), True where pixels are judged, or None: everywhere.
    """

    name: str
    predictions: tuple[Prediction, ...]
    given: FloatArray | None = None
    target: FloatArray | None = None
    mask: BoolArray | None = None


@dataclass(frozen=True)
class Gallery:
    """Everything that a page shows.

    Attributes:
        title: Name of the page, as "run default, super-resolution".
        sides: The methods, the one to start with first.
        shapes: (height, width) of each image, in the order of `images`.
        bytes_per_pixel: What a pixel takes on the page, about, before compression.
        images: Reads the images, one after the other.
        notes: What else a user should know about the page.
    """

    title: str
    sides: tuple[Side, ...]
    shapes: tuple[tuple[int, int], ...]
    bytes_per_pixel: int
    images: Callable[[], Iterator[ViewedImage]]
    notes: tuple[str, ...] = field(default=())


def first_images(gallery: Gallery, n: int) -> Gallery:
    """The same with its first n images; a note says so where there are more."""
    total = len(gallery.shapes)
    if n >= total:
        return gallery
    return replace(
        gallery,
        shapes=gallery.shapes[:n],
        images=lambda: islice(gallery.images(), n),
        notes=(*gallery.notes, f"The page shows the first {n:,} of {total:,} images."),
    )
