"""Checkpoint selection: after each validation the checkpoint competes under both protocols."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conffusion.bounds import sort_bounds
from conffusion.calibration.procedure import LambdaGrid
from conffusion.config.schema import CalibrationSettings
from conffusion.core.arrays import FloatArray
from conffusion.errors import CalibrationError
from conffusion.methods.protocols import Protocol


@dataclass(frozen=True)
class ValidationImages:
    """Images of the split on which checkpoints of one protocol compete.

    Attributes:
        target: (N, C, H, W) float32 in [0, 1].
        mask: (N, C, H, W), 1 at evaluated pixels.
        groups: (N,) group of every image, or None.
    """

    target: FloatArray
    mask: npt.NDArray[np.uint8]
    groups: npt.NDArray[np.object_] | None


@dataclass(frozen=True)
class Score:
    """How a checkpoint did.

    Attributes:
        lambda_hat: Calibrated scale on the split; NaN when none is feasible.
        risk: Risk at lambda_hat; NaN likewise.
        interval_size: Mean calibrated interval size of the evaluated pixels; infinite likewise.
    """

    lambda_hat: float
    risk: float
    interval_size: float

    def beats(self, other: "Score | None") -> bool:
        """Whether this checkpoint has narrower intervals at controlled risk; any beats one that controls nothing."""
        return other is None or self.interval_size < other.interval_size or math.isinf(other.interval_size)


def score_checkpoint(
    protocol: Protocol,
    lower: FloatArray,
    upper: FloatArray,
    images: ValidationImages,
    settings: CalibrationSettings,
    grid: LambdaGrid | None = None,
) -> Score:
    """Calibrate bounds, (N, C, H, W) in [0, 1], on the split and measure the intervals that result.

    Where the risk is not controlled, which only the official grid lets happen, the checkpoint cannot win.
    """
    if protocol.sorts_bounds:
        lower, upper, _ = sort_bounds(lower, upper)
    try:
        calibration = protocol.calibrate(
            lower, upper, images.target, mask=images.mask, groups=images.groups, settings=settings, grid=grid
        )
    except CalibrationError:
        return Score(float("nan"), float("nan"), float("inf"))
    calibrated_lower, calibrated_upper = calibration.apply(lower, upper)
    size = float((calibrated_upper - calibrated_lower)[images.mask > 0].mean())
    size = size if protocol.is_feasible(calibration) else float("inf")
    return Score(calibration.lambda_hat, calibration.risk, size)
