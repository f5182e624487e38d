"""What a restoration with intervals is, for one image."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import ArrayLike, BoolArray, FloatArray, as_numpy
from conffusion.errors import ShapeError

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
        truth = self._like(target)
        return np.asarray((self.lower <= truth) & (truth <= self.upper))

    def risk(self, target: ArrayLike) -> float:
        """Share of the restored pixel values that lie outside.

        Args:
            target: As for `contains`.
        """
        return float(1 - self.contains(target)[:, self.restored].mean())

    def _like(self, target: ArrayLike) -> FloatArray:
        truth = as_numpy(target)
        truth = truth[None] if truth.ndim == 2 else truth
        if truth.shape != self.lower.shape:
            raise ShapeError(f"target has shape {truth.shape} but the interval has {self.lower.shape}")
        return truth
