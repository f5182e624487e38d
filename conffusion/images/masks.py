"""A user's mask of missing pixels."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from conffusion.errors import DataError
from conffusion.images.image import MAX_PIXELS, open_images

BETWEEN = 0.25, 0.75  # neither black nor white
MAX_SHARE_BETWEEN = 0.1  # edges that were smoothed, and ringing of JPEG


def read_mask(path: str | Path, height: int, width: int, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read a mask in which white marks what is missing.

    Grey, RGB (the mean of the colours), palettes and 1 bit; transparent pixels count as black. Values that are not
    quite black or white, as of JPEG and of smoothed edges, are thresholded at one half.

    Args:
        path: An image of any kind that `open_images` reads.
        height: Rows of the image that it belongs to, upright.
        width: Columns, likewise.
        max_pixels: As for `open_images`.
    Returns:
        (height, width) uint8: 1 where missing, 0 elsewhere.
    Raises:
        DataError: If the file is no single image, of another size, no mask, or marks nothing.
    """
    masks = open_images(path, max_pixels=max_pixels)
    if len(masks) != 1:
        raise DataError(f"{path}: holds {len(masks)} images; a mask is a single one")
    mask = masks[0]
    if mask.size != (height, width):
        found = f"{mask.size[1]}x{mask.size[0]}"
        raise DataError(f"{path}: the mask has {found} pixels, but its image has {width}x{height}; they must agree")
    values = mask.pixels.mean(axis=0) * (1 if mask.alpha is None else mask.alpha)
    n_not_black = np.count_nonzero(values >= BETWEEN[0])
    n_between = n_not_black - np.count_nonzero(values > BETWEEN[1])
    if n_between > min(MAX_SHARE_BETWEEN * values.size, n_not_black / 2):
        raise DataError(
            f"{path}: {n_between} of {values.size} pixels are neither black nor white; a mask is white where the "
            "image is missing and black elsewhere"
        )
    missing = (values > 0.5).astype(np.uint8)
    if not missing.any():
        raise DataError(
            f"{path}: marks nothing (the largest value is {values.max():.3g} of 1); white marks what is missing"
        )
    return missing
