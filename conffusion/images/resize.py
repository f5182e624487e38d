"""Resizing with antialiasing on 8-bit pixels, as the official data preparation does it.

Source:
    Checked bit for bit against the fixture images/degradation by tests/images/test_resize.py.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from conffusion.core.arrays import ArrayLike, FloatArray, as_numpy
from conffusion.errors import ShapeError

PixelArray: TypeAlias = npt.NDArray[Any]  # (H, W, 3), uint8 in 0..255 or float32 in [0, 1]
Resample = Literal["bicubic", "bilinear"]

FILTERS: Mapping[Resample, Image.Resampling] = MappingProxyType(
    {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
)


def to_uint8(images_01: ArrayLike) -> npt.NDArray[np.uint8]:
    """Nearest of the 256 grey levels, for values in [0, 1]; values outside are clipped first."""
    return np.rint(np.clip(as_numpy(images_01), 0, 1) * 255).astype(np.uint8)


def from_uint8(pixels: npt.NDArray[np.uint8]) -> FloatArray:
    """Grey levels 0..255 as float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255)


def resize_bicubic(images: ArrayLike, height: int, width: int) -> FloatArray:
    """Resize images with Pillow's antialiased bicubic filter on 8-bit pixels.

    Args:
        images: (N, C, H, W) in [0, 1]; rounded to 8 bits before they are resized. Any number of channels.
        height: Rows of the result, at least 1.
        width: Columns of the result, at least 1.
    Returns:
        (N, C, height, width) float32 in [0, 1], multiples of 1/255.
    Raises:
        ShapeError: If `images` is not four-dimensional or a size is below 1.
    """
    pixels = to_uint8(images)
    if pixels.ndim != 4 or min(pixels.shape[1:], default=0) < 1:
        raise ShapeError(f"images have shape {pixels.shape}: expected (N, C, H, W) with at least one pixel")
    if height < 1 or width < 1:
        raise ShapeError(f"cannot resize to {height}x{width}: both sides must be at least 1 pixel")
    resize = _resize_rgb if pixels.shape[1] == 3 else _resize_planes
    return from_uint8(resize(pixels, height, width))


def resize_pixels(pixels: PixelArray, height: int, width: int, resample: Resample = "bicubic") -> PixelArray:
    """Resize one photograph in its own precision.

    Args:
        pixels: (H, W, 3), uint8 (resized in 8 bits, as official) or float32 in [0, 1] (resized in float).
        height: Rows of the result.
        width: Columns of the result.
        resample: Pillow's antialiased filter: bicubic, or bilinear as the official guided inpainting has it.
    Returns:
        (height, width, 3) of the same type and range.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.dtype == np.uint8:
        return np.asarray(_resize_image(pixels, height, width, resample))
    planes = [np.asarray(_resize_image(plane, height, width, resample)) for plane in np.moveaxis(pixels, 2, 0)]
    return np.clip(np.stack(planes, axis=2), 0, 1).astype(np.float32)


def _resize_rgb(pixels: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    rows = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    resized = _stack((_resize_image(row, height, width) for row in rows), (len(rows), height, width, 3))
    return resized.transpose(0, 3, 1, 2)


def _resize_planes(pixels: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    planes = np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[2:]))
    resized = _stack((_resize_image(plane, height, width) for plane in planes), (len(planes), height, width))
    return resized.reshape(*pixels.shape[:2], height, width)


def _stack(images: Iterable[Image.Image], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    stacked = np.empty(shape, dtype=np.uint8)
    for k, image in enumerate(images):
        stacked[k] = np.asarray(image)
    return stacked


def _resize_image(pixels: PixelArray, height: int, width: int, resample: Resample = "bicubic") -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), FILTERS[resample])
