"""Numbers that describe an image by its predicted intervals, or by what was given of it: features of the drift check.

NumPy only; zarr is streamed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import ArrayLike, BoolArray, FloatArray, as_numpy, check_same_shape, is_zarr
from conffusion.core.labelled_bounds import check_mask_shape, evaluated, read_blocks, slices_to_read
from conffusion.errors import DataError, ShapeError

FEATURE_NAMES = (
    "size_mean",
    "size_std",
    "size_q10",
    "size_q50",
    "size_q90",
    "log_size_mean",
    "midpoint_mean",
    "midpoint_std",
    "midpoint_texture",
    "saturated_share",
)
GIVEN_FEATURE_NAMES = ("given_mean", "given_std", "given_texture", "given_detail")
_READ_PIXELS = 1 << 20  # described at a time
_SMALLEST_SIZE = 1e-4  # stands in for smaller sizes where their logarithm is taken
_SATURATION = 0.5 / 255  # half an 8-bit step from 0 or 1


def interval_features(lower: ArrayLike, upper: ArrayLike, mask: ArrayLike | None = None) -> FloatArray:
    """Describe each image by its predicted intervals.

    Size is upper - lower, midpoint (lower + upper) / 2, both over the evaluated pixels of an image. The features are
    those of `FEATURE_NAMES`: mean, standard deviation and 10, 50 and 90 % quantiles of size; mean of the natural
    logarithm of size (sizes below 1e-4 count as 1e-4); mean and standard deviation of the midpoint; its texture, the
    mean absolute difference of horizontal neighbours plus that of vertical ones (0 without neighbours); and the share
    of pixels whose lower bound lies within half an 8-bit step of 0, or the upper one of 1.

    Args:
        lower: (N, C, H, W) lower bounds in [0, 1], before or after calibration, but alike in all sets that are
            compared; NumPy array, torch tensor or zarr array (read in blocks).
        upper: Upper bounds, same shape.
        mask: Same shape, or (N, 1, H, W); pixels where it is 1 are evaluated. None evaluates all.
    Returns:
        (N, 10) float64, in the order of `FEATURE_NAMES`.
    Raises:
        ShapeError: If shapes do not match.
        DataError: If an evaluated value is NaN or infinite, or an image has no evaluated pixel.
    """
    features = []
    for rows, parts, chosen in _blocks(lower=lower, upper=upper, mask=mask):
        bounds = zip(parts["lower"], parts["upper"], chosen, strict=True)
        features += [_image_features(row, *image) for row, image in enumerate(bounds, start=rows.start)]
    return np.array(features)


def given_features(images: ArrayLike, mask: ArrayLike | None = None) -> FloatArray:
    """Describe each image that was given to be restored, where predicted intervals alone would not show a change.

    The features are those of `GIVEN_FEATURE_NAMES`: mean and standard deviation; texture as in `interval_features`; and
    detail, the mean absolute difference of a pixel and the mean of its four neighbours, which blur lowers and noise
    raises most.

    Args:
        images: (N, C, H, W) in [0, 1], as the network sees them.
        mask: Same shape, or (N, 1, H, W), 1 at the pixels that were given. None = all.
    Returns:
        (N, 4) float64.
    Raises:
        ShapeError: If shapes do not match.
        DataError: If a given value is NaN or infinite, or an image has no given pixel.
    """
    features = []
    for rows, parts, chosen in _blocks(images=images, mask=mask):
        given = zip(parts["images"], chosen, strict=True)
        features += [_given_features(row, *image) for row, image in enumerate(given, start=rows.start)]
    return np.array(features)


def _blocks(**arrays: ArrayLike | None) -> Iterator[tuple[slice, dict[str, npt.NDArray[Any]], BoolArray]]:
    """Images some at a time: their arrays by name, and which of their pixels are evaluated, by the mask among them."""
    mask = arrays.pop("mask")
    shape = check_same_shape(**arrays)
    name = next(iter(arrays))
    if len(shape) != 4 or 0 in shape:
        raise ShapeError(f"{name} has shape {shape}: (N, C, H, W) with at least one image and one pixel is needed")
    check_mask_shape("mask", mask, shape)
    given = {key: array if array is None or is_zarr(array) else as_numpy(array) for key, array in arrays.items()}
    given["mask"] = mask if mask is None or is_zarr(mask) else as_numpy(mask)
    for rows, parts in read_blocks(given, _READ_PIXELS, slices_to_read(given.values())):
        inside = parts.pop("mask")
        chosen = True if inside is None else evaluated(inside, rows.start)
        yield rows, parts, np.broadcast_to(chosen, parts[name].shape)


def _image_features(image: int, lower: npt.NDArray[Any], upper: npt.NDArray[Any], chosen: BoolArray) -> list[float]:
    """Features of one image from its (C, H, W) bounds, in the order of FEATURE_NAMES."""
    low, high = (bound[chosen].astype(np.float64) for bound in (lower, upper))
    if not low.size:
        raise DataError(f"the mask selects no pixel in image {image}: leave the image out")
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise DataError(f"lower or upper has evaluated values that are NaN or infinite in image {image}")
    size, midpoint = high - low, (low + high) / 2
    whole = np.zeros(chosen.shape)
    whole[chosen] = midpoint
    saturated = (low <= _SATURATION) | (high >= 1.0 - _SATURATION)
    return [
        size.mean(),
        size.std(),
        *np.quantile(size, (0.1, 0.5, 0.9)),
        np.log(np.maximum(size, _SMALLEST_SIZE)).mean(),
        midpoint.mean(),
        midpoint.std(),
        _mean_step(whole, chosen, axis=1) + _mean_step(whole, chosen, axis=2),
        saturated.mean(),
    ]


def _given_features(image: int, values: npt.NDArray[Any], chosen: BoolArray) -> list[float]:
    """Features of one given image (C, H, W), in the order of GIVEN_FEATURE_NAMES."""
    given = values[chosen].astype(np.float64)
    if not given.size:
        raise DataError(f"no pixel was given of image {image}")
    if not np.isfinite(given).all():
        raise DataError(f"given values are NaN or infinite in image {image}")
    whole = np.where(chosen, values, 0.0)
    return [
        given.mean(),
        given.std(),
        _mean_step(whole, chosen, axis=1) + _mean_step(whole, chosen, axis=2),
        _detail(whole, chosen),
    ]


def _detail(values: FloatArray, chosen: BoolArray) -> float:
    """Mean absolute difference of a pixel and the mean of its four neighbours, all given; 0 if there are none."""
    middle, around = (slice(None), slice(1, -1), slice(1, -1)), [(0, 1), (2, 1), (1, 0), (1, 2)]
    n_rows, n_columns = values.shape[1] - 2, values.shape[2] - 2
    if n_rows < 1 or n_columns < 1:
        return 0.0
    parts = [(slice(None), slice(y, y + n_rows), slice(x, x + n_columns)) for y, x in around]
    inside = np.logical_and.reduce([chosen[middle], *(chosen[part] for part in parts)])
    differences = np.abs(values[middle] - sum(values[part] for part in parts) / 4)[inside]
    return float(differences.mean()) if differences.size else 0.0


def _mean_step(values: FloatArray, chosen: BoolArray, axis: int) -> float:
    """Mean absolute difference of neighbours along an axis, both evaluated; 0 if there are none."""
    values, chosen = np.moveaxis(values, axis, 0), np.moveaxis(chosen, axis, 0)
    steps = np.abs(np.diff(values, axis=0))[chosen[1:] & chosen[:-1]]
    return float(steps.mean()) if steps.size else 0.0
