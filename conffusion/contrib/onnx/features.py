"""`conffusion.calibration.features.pixel_features` in torch, so that a graph can hold it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from conffusion.calibration.features import (
    DISTANT,
    EDGE,
    LEAST_TEXTURE,
    NEIGHBOURS,
    SMALLEST_SIZE,
    WINDOWS,
)


def pixel_features(lower: Tensor, upper: Tensor) -> Tensor:
    """Features of every pixel; the same numbers up to rounding, in the type of the bounds.

    Args:
        lower: (N, C, H, W) lower bounds.
        upper: Upper bounds, same shape.
    Returns:
        (N, C, H, W, n_features), in the order of the NumPy code.
    """
    middle, size = (lower + upper) / 2, (upper - lower).clamp(min=SMALLEST_SIZE)
    log_size = size.log()
    planes = [log_size, middle, (lower.clamp(min=0) + EDGE).log(), (1 - upper.clamp(max=1) + EDGE).log()]
    planes += [size.mean((1, 2, 3), keepdim=True).log(), middle.mean((1, 2, 3), keepdim=True)]
    level, widths = _Surroundings(middle), _Surroundings(log_size)
    slope = level.step((1, 0)).abs() + level.step((0, 1)).abs()
    for window in WINDOWS:
        above = middle - _mean(middle, window)
        texture = (_mean(slope, window) + LEAST_TEXTURE).log()
        planes += [_mean(size, window).log() - log_size, above, above / size, texture]
    planes += [part for step in NEIGHBOURS for part in (level.step(step), widths.step(step))]
    planes += [level.step(step) for step in DISTANT]
    for channel in range(1, lower.shape[1]):
        planes += [torch.roll(array, channel, dims=1) - array for array in (middle, log_size)]
    planes += _places(lower)
    return torch.stack([plane.expand_as(lower) for plane in planes], dim=-1)


def _mean(values: Tensor, window: int) -> Tensor:
    """Local means, the border repeated."""
    reach = window // 2
    return F.avg_pool2d(F.pad(values, (reach,) * 4, mode="replicate"), window, stride=1)


class _Surroundings:
    """Images with their borders repeated, to look at what lies around each pixel."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._reach = values, max(abs(d) for step in (*NEIGHBOURS, *DISTANT) for d in step)
        self._padded = F.pad(values, (self._reach,) * 4, mode="replicate")

    def step(self, step: tuple[int, int]) -> Tensor:
        """Value so many rows and columns away, less the pixel's own."""
        height, width = self._values.shape[2:]
        top, left = (self._reach + d for d in step)
        return self._padded[:, :, top : top + height, left : left + width] - self._values


def _places(like: Tensor) -> list[Tensor]:
    """Row and column in [-1, 1], and an indicator of each channel but the last."""
    n_channels, height, width = like.shape[1:]
    channel = torch.arange(n_channels, device=like.device)[:, None, None]
    indicators = [(channel == k).to(like.dtype) for k in range(n_channels - 1)]
    return [_line(height, like)[:, None], _line(width, like), *indicators]


def _line(length: int, like: Tensor) -> Tensor:
    """From -1 to 1; a single pixel is at -1."""
    positions = torch.arange(length, device=like.device).to(like.dtype)
    return positions * 2 / max(length - 1, 1) - 1
