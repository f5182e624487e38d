"""What a restoration with intervals is, for one image: its bounds before the scale lambda_hat, and calibrated."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from conffusion.calibration import Calibration
from conffusion.core.arrays import ArrayLike, BoolArray, FloatArray, as_numpy
from conffusion.errors import DataError, ShapeError
from conffusion.evaluation.drift import given_features, interval_features
from conffusion.inference.evidence import Evidence

EstimateKind: TypeAlias = Literal["point_head", "mean_of_variants", "midpoint"]


@dataclass(frozen=True, eq=False)
class Interval:
    """Calibrated bounds of one image.

    Attributes:
        lower: (C, H, W) float32 in [0, 1].
        upper: Same shape; at least `lower`, unless the calibrated family lets them cross.
        estimate: Restored image, same shape, in [0, 1].
        estimate_kind: Where it comes from: the network's own point head, the mean of the sampled variants, or the
            midpoint of the calibrated interval. A point head or a mean may lie outside its interval.
        mask: (H, W) uint8, 1 where pixels were restored; None = everywhere. Elsewhere the pixels are known, and the
            interval is a point.
        image_p_value: How typical the image's intervals are beside those of the calibration images: P(value <= level)
            <= level if it is exchangeable with them (conformal; `conffusion.evaluation.drift`). None without evidence.
        features: (10,) or (14,) that describe it to the drift check, as `UncalibratedInterval.features`; or None.
        n_tiles: Number of tiles that it was put together from.
        odd_holes: Whether around some hole more is missing than in training: at borders, or near other holes.

    Example:
        >>> import numpy as np
        >>> from conffusion import Interval
        >>> estimate = np.full((1, 2, 2), 0.5, np.float32)
        >>> interval = Interval(estimate - 0.25, estimate + 0.25, estimate, "midpoint")
        >>> truth = np.array([[0.3, 0.5], [0.7, 0.9]])
        >>> interval.contains(truth).tolist()
        [[[True, True], [True, False]]]
        >>> interval.risk(truth), interval.size_mean
        (0.25, 0.5)
    """

    lower: FloatArray
    upper: FloatArray
    estimate: FloatArray
    estimate_kind: EstimateKind
    mask: npt.NDArray[np.uint8] | None = None
    image_p_value: float | None = None
    features: FloatArray | None = None
    n_tiles: int = 1
    odd_holes: bool = False

    @property
    def size(self) -> FloatArray:
        """(C, H, W) interval size, upper - lower, in units of the [0, 1] range."""
        return self.upper - self.lower

    @property
    def size_mean(self) -> float:
        """Mean size over the restored pixels."""
        return float(self.size[:, self.restored].mean())

    @property
    def size_median(self) -> float:
        """Median size over the restored pixels."""
        return float(np.median(self.size[:, self.restored]))

    @property
    def restored(self) -> BoolArray:
        """(H, W) whether a pixel was restored."""
        return np.ones(self.lower.shape[1:], bool) if self.mask is None else self.mask == 1

    def contains(self, target: ArrayLike) -> BoolArray:
        """Which true values lie inside.

        Args:
            target: (C, H, W) or (H, W) truth in [0, 1]; array or tensor.
        Returns:
            (C, H, W).
        Raises:
            ShapeError: If the shape is another.
        """
        truth = as_numpy(target)
        truth = truth[None] if truth.ndim == 2 else truth
        if truth.shape != self.lower.shape:
            raise ShapeError(f"target has shape {truth.shape} but the interval has {self.lower.shape}")
        return np.asarray((self.lower <= truth) & (truth <= self.upper))

    def risk(self, target: ArrayLike) -> float:
        """Share of the restored pixel values that lie outside.

        Args:
            target: As for `contains`.
        """
        return float(1 - self.contains(target)[:, self.restored].mean())


@dataclass(frozen=True, eq=False)
class UncalibratedInterval:
    """Bounds of one image, of any size, before the scale lambda_hat.

    Attributes:
        lower: (C, H, W) float64, after the shape of the set family; may leave [0, 1].
        upper: Same shape.
        estimate: The model's own estimate, same shape; the known value where nothing was restored.
        estimate_kind: What it is; with "midpoint" the middle of the calibrated interval takes its place.
        mask: (H, W) uint8, 1 where pixels were restored; None = everywhere.
        given: (C, H, W) in [0, 1], what was to be restored, as the network sees it; None where that is not known.
        n_tiles: As in `Interval`.
        odd_holes: As in `Interval`.
    """

    lower: FloatArray
    upper: FloatArray
    estimate: FloatArray
    estimate_kind: EstimateKind
    mask: npt.NDArray[np.uint8] | None = None
    given: FloatArray | None = None
    n_tiles: int = 1
    odd_holes: bool = False

    @property
    def restored(self) -> BoolArray:
        """(H, W) whether a pixel was restored."""
        return np.ones(self.lower.shape[1:], bool) if self.mask is None else self.mask == 1

    @cached_property
    def features(self) -> FloatArray:
        """(10,) features for the drift check, or (14,) where it is known what was given."""
        lower, upper = (bound.clip(0, 1)[None] for bound in (self.lower, self.upper))
        mask = None if self.mask is None else self.mask[None, None]
        features = interval_features(lower, upper, mask)
        if self.given is not None:
            known = None if mask is None or mask.all() else 1 - mask
            features = np.hstack([features, given_features(self.given[None], known)])
        return np.asarray(features[0])

    def calibrated(self, calibration: Calibration, evidence: Evidence) -> Interval:
        """The interval at the scale lambda_hat; a point where pixels are known.

        Args:
            calibration: Scale and set family.
            evidence: About the calibration images, beside which the image is typical or not.
        """
        lower, upper = calibration.family.scaling.apply(self.lower, self.upper, calibration.lambda_hat)
        lower, upper = lower.clip(0, 1), upper.clip(0, 1)
        estimate = (lower + upper) / 2 if self.estimate_kind == "midpoint" else self.estimate
        low, high, middle = (
            np.where(self.restored, array, self.estimate).astype(np.float32) for array in (lower, upper, estimate)
        )
        p_value = evidence.image_p_value(self.features)
        return Interval(
            low, high, middle, self.estimate_kind, self.mask, p_value, self.features, self.n_tiles, self.odd_holes
        )


def checked_mask(mask: ArrayLike) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 mask of the pixels that are restored.

    Raises:
        ShapeError: If it has other axes.
        DataError: If it holds other values than 0 and 1, or no 1.
    """
    values = as_numpy(mask)
    if values.ndim != 2:
        raise ShapeError(f"mask has shape {values.shape}: must be (H, W)")
    if not np.isin(values, (0, 1)).all() or not values.any():
        raise DataError("mask must hold 0 and 1 only, and 1 at one pixel at least")
    return values.astype(np.uint8)
