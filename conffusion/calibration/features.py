"""What an interval and its neighbourhood in the image tell about how far it should reach: features of every pixel.

All of them are functions of one image's own bounds and of the place in the image; no truth, no other image.
"""

import numpy as np
from scipy import ndimage

from conffusion.core.arrays import FloatArray, check_same_shape
from conffusion.errors import ShapeError

SMALLEST_SIZE = 1.0 / 255.0  # an interval counts as at least this wide, so that it can grow
WINDOWS = (3, 7, 15)  # pixels, of local means
NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
DISTANT = ((-2, 0), (2, 0), (0, -2), (0, 2))
EDGE = 0.02  # softens logarithms of distances to 0 and 1
LEAST_TEXTURE = 1e-3  # added, before the logarithm


def pixel_features(lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Features of every pixel of some images.

    Size and level of the interval, of its neighbours in the image and of the other channels relative to its own, local
    and global means, texture, the distances to 0 and 1, and the position.

    Args:
        lower: (N, C, H, W) float64 lower bounds.
        upper: Upper bounds, same shape.
    Returns:
        (n_features, N, C, H, W) float32; n_features depends on C alone.
    Raises:
        ShapeError: If the shapes differ or are not (N, C, H, W).
    """
    shape = check_same_shape(lower=lower, upper=upper)
    if len(shape) != 4:
        raise ShapeError(f"lower has shape {shape}: must be (N, C, H, W), since features come from whole images")
    middle, size = (lower + upper) / 2, np.maximum(upper - lower, SMALLEST_SIZE)
    log_size = np.log(size)
    planes = [log_size, middle, np.log(np.maximum(lower, 0) + EDGE), np.log(1 - np.minimum(upper, 1) + EDGE)]
    planes += _whole_image(middle, size)
    for window in WINDOWS:
        planes += _local(middle, size, log_size, window)
    planes += [part for step in NEIGHBOURS for part in (_step(middle, step), _step(log_size, step))]
    planes += [_step(middle, step) for step in DISTANT]
    for channel in range(1, lower.shape[1]):
        planes += [np.roll(array, channel, axis=1) - array for array in (middle, log_size)]
    planes += _places(lower.shape)
    return np.stack([np.broadcast_to(plane, lower.shape) for plane in planes]).astype(np.float32)


def _whole_image(middle: FloatArray, size: FloatArray) -> list[FloatArray]:
    """Mean size and mean level of the image."""
    axes = (1, 2, 3)
    return [np.log(size.mean(axis=axes, keepdims=True)), middle.mean(axis=axes, keepdims=True)]


def _local(middle: FloatArray, size: FloatArray, log_size: FloatArray, window: int) -> list[FloatArray]:
    """Local means relative to the pixel: of the size, of the level (also in units of the size), and the texture."""
    above = middle - _mean(middle, window)
    texture = np.log(_mean(_slope(middle), window) + LEAST_TEXTURE)
    return [np.log(_mean(size, window)) - log_size, above, above / size, texture]


def _mean(values: FloatArray, window: int) -> FloatArray:
    return np.asarray(ndimage.uniform_filter(values, size=(1, 1, window, window), mode="nearest"))


def _slope(values: FloatArray) -> FloatArray:
    """Absolute differences to the next pixel below and to the right, added."""
    down = np.diff(values, axis=2, append=values[:, :, -1:])
    return np.asarray(np.abs(down) + np.abs(np.diff(values, axis=3, append=values[:, :, :, -1:])))


def _step(values: FloatArray, step: tuple[int, int]) -> FloatArray:
    """Value so many rows and columns away, the border repeated, less the pixel's own."""
    rows, columns = (np.clip(np.arange(n) + d, 0, n - 1) for n, d in zip(values.shape[2:], step, strict=True))
    return values[:, :, rows[:, None], columns] - values


def _places(shape: tuple[int, ...]) -> list[FloatArray]:
    """Row and column in [-1, 1], and an indicator of each channel but the last."""
    _, n_channels, height, width = shape
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    channel = np.arange(n_channels)[:, None, None]
    return [rows, columns, *(np.asarray(channel == k, dtype=float) for k in range(n_channels - 1))]
