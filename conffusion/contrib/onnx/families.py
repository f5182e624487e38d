"""Set families in torch: what is done to sorted bounds before and by the scale lambda_hat, as a module."""

import numpy as np
import torch
from torch import Tensor, nn

from conffusion.calibration import Family
from conffusion.calibration.features import SMALLEST_SIZE
from conffusion.calibration.krcps import PixelGroups
from conffusion.calibration.learned import CLIP, LOG_LEAST, LOG_MOST, LearnedScale
from conffusion.calibration.scaling import get_scaling
from conffusion.contrib.onnx.features import pixel_features
from conffusion.core.arrays import FloatArray
from conffusion.core.choices import PLAIN_FAMILIES
from conffusion.errors import ExportError

PLAIN_REMEDY = (
    f"make the model anew with `calibration.families: [{', '.join(PLAIN_FAMILIES)}]` in the run's configuration"
)


class LearnedShape(nn.Module):
    """`conffusion.calibration.learned.LearnedScale` on tensors."""

    mean: Tensor
    deviation: Tensor
    inner: Tensor
    outer: Tensor

    def __init__(self, shape: LearnedScale) -> None:
        super().__init__()
        self.scale = float(shape.scale)
        for name in ("mean", "deviation", "inner", "outer"):
            self.register_buffer(name, _tensor(getattr(shape, name)))

    def forward(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds (N, C, H, W) to bounds of the same shape, not clamped."""
        features = (pixel_features(lower, upper) - self.mean) / self.deviation
        hidden = nn.functional.silu(_affine(features.clamp(-CLIP, CLIP), self.inner))
        raw = _affine(hidden, self.outer)
        limit = torch.where(raw < 0, float(LOG_LEAST), float(LOG_MOST))
        down, up = (limit * (raw / limit).tanh()).exp().unbind(dim=-1)
        middle, half = (lower + upper) / 2, (upper - lower).clamp(min=SMALLEST_SIZE) / 2 * self.scale
        return middle - down * half, middle + up * half


class PixelGroupShape(nn.Module):
    """`conffusion.calibration.krcps.PixelGroups` on tensors."""

    shift: Tensor

    def __init__(self, shape: PixelGroups) -> None:
        super().__init__()
        self.register_buffer("shift", _tensor(np.append(shape.offsets, 0.0)[shape.label]))

    def forward(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds (N, C, H, W) of the one size that the groups are for, to bounds in [0, 1]."""
        low, high = get_scaling("additive").apply(lower, upper, self.shift)
        crossed, middle = high < low, (lower + upper) / 2
        return torch.where(crossed, middle, low).clamp(0, 1), torch.where(crossed, middle, high).clamp(0, 1)


class ScaledFamily(nn.Module):
    """A set family at its calibrated scale.

    Args:
        family: The family, with its shape.
        lambda_hat: The scale.
        n_channels: Of the images.
    Raises:
        ExportError: If the family has a shape that is not known here, or that was fitted to other channels.
    """

    def __init__(self, family: Family, lambda_hat: float, n_channels: int = 3) -> None:
        super().__init__()
        self._scaling, self._lambda_hat = family.scaling, lambda_hat
        self.shape = _shape_module(family, n_channels)

    def forward(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds (N, C, H, W) before calibration to calibrated ones, not clamped."""
        if self.shape is not None:
            lower, upper = self.shape(lower, upper)
        low, high = self._scaling.apply(lower, upper, self._lambda_hat)
        return low, high


def _shape_module(family: Family, n_channels: int) -> nn.Module | None:
    shape = family.shape
    if shape is None:
        return None
    if isinstance(shape, PixelGroups) and len(shape.label) == n_channels:
        return PixelGroupShape(shape)
    if isinstance(shape, LearnedScale) and len(shape.mean) == _n_features(n_channels):
        return LearnedShape(shape)
    raise ExportError(
        f"the set family {family.name!r} was not fitted to images of {n_channels} channels: {PLAIN_REMEDY}"
    )


def _n_features(n_channels: int) -> int:
    pixel = torch.zeros(1, n_channels, 1, 1)
    return pixel_features(pixel, pixel).shape[-1]


def _tensor(array: FloatArray) -> Tensor:
    return torch.as_tensor(np.asarray(array, dtype=np.float32))


def _affine(values: Tensor, layer: Tensor) -> Tensor:
    """Weights in all rows of the layer but the last, which holds the biases."""
    return values @ layer[:-1] + layer[-1]
