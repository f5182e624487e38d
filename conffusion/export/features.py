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
    slope = _slope(middle)
    for window in WINDOWS:
        above = middle - _mean(middle, window)
        texture = (_mean(slope, window) + LEAST_TEXTURE).log()
        planes += [_mean(size, window).log() - log_size, above, above / size, texture]
    planes += [part for step in NEIGHBOURS for part in (_step(middle, step), _step(log_size, step))]
    planes += [_step(middle, step) for step in DISTANT]
    for channel in range(1, lower.shape[1]):
        planes += [torch.roll(array, channel, dims=1) - array for array in (middle, log_size)]
    planes += _places(lower)
    return torch.stack([plane.expand_as(lower) for plane in planes], dim=-1)


def _mean(values: Tensor, window: int) -> Tensor:
    """Local means, the border repeated."""
    reach = window // 2
    return F.avg_pool2d(F.pad(values, (reach,) * 4, mode="replicate"), window, stride=1)


def _slope(values: Tensor) -> Tensor:
    """Absolute differences to the next pixel below and to the right, added."""
    return _step(values, (1, 0)).abs() + _step(values, (0, 1)).abs()


def _step(values: Tensor, step: tuple[int, int]) -> Tensor:
    """Value so many rows and columns away, the border repeated, less the pixel's own."""
    (rows, columns), (height, width) = step, values.shape[2:]
    reach = max(abs(rows), abs(columns))
    padded = F.pad(values, (reach,) * 4, mode="replicate")
    top, left = reach + rows, reach + columns
    return padded[:, :, top : top + height, left : left + width] - values


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
