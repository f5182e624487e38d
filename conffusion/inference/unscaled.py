"""Bounds of one image before the scale lambda_hat, and the interval that they become with it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conffusion.calibration import Calibration
from conffusion.core.arrays import FloatArray
from conffusion.evaluation.drift import given_features, interval_features
from conffusion.inference.interval import EstimateKind, Interval


@dataclass(frozen=True, eq=False)
class Unscaled:
    """Bounds of one image, of any size, before the scale lambda_hat.

    Attributes:
        lower: (C, H, W) float64, after the shape of the set family; may leave [0, 1].
        upper: Same shape.
        point: The method's own estimate, same shape, in [0, 1]; the known value where nothing was restored.
        mask: (H, W) uint8, 1 where pixels were restored.
        n_tiles: Number of tiles that it was put together from.
        given: (C, H, W) what was to be restored, as the network sees it; None where that is not known.
        odd_holes: Whether around some hole more is missing than in training: at borders, or near other holes.
    """

    lower: FloatArray
    upper: FloatArray
    point: FloatArray
    mask: npt.NDArray[np.uint8]
    n_tiles: int
    given: FloatArray | None = None
    odd_holes: bool = False

    def features(self) -> FloatArray:
        """(1, 10) features for the drift check, or (1, 14) where it is known what was given."""
        lower, upper = (bound.clip(0, 1)[None] for bound in (self.lower, self.upper))
        features = interval_features(lower, upper, self.mask[None, None])
        if self.given is None:
            return features
        known = None if self.mask.all() else (1 - self.mask)[None, None]
        return np.hstack([features, given_features(self.given[None], known)])

    def scaled(
        self, calibration: Calibration, kind: EstimateKind, *, has_mask: bool, image_p_value: float | None
    ) -> Interval:
        """The calibrated interval.

        Args:
            calibration: Scale and set family.
            kind: What `point` is; with "midpoint" the estimate is the middle of the calibrated interval.
            has_mask: Whether some pixels are known: the interval is a point there, and says where.
            image_p_value: How typical the image is.
        """
        lower, upper = calibration.family.scaling.apply(self.lower, self.upper, calibration.lambda_hat)
        known = (self.mask != 1) & np.ones(lower.shape, bool)
        lower, upper = (np.where(known, self.point, bound.clip(0, 1)) for bound in (lower, upper))
        estimate = np.where(known, self.point, (lower + upper) / 2) if kind == "midpoint" else self.point
        low, high, middle = (array.astype(np.float32) for array in (lower, upper, estimate))
        return Interval(low, high, middle, kind, self.mask if has_mask else None, image_p_value)
