"""Bounds and truths of any method in array files: .npy, zarr or TIFF stacks."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.data.grouping import read_text_table
from conffusion.errors import DataError


def read_arrays(
    lower: str | Path,
    upper: str | Path,
    target: str | Path,
    mask: str | Path | None = None,
    group_csv: str | Path | None = None,
) -> LabelledBounds:
    """Open array files of bounds and truth of images of one size.

    Args:
        lower: `.npy`, a zarr array, or a TIFF stack: (N, C, H, W), or (N, H, W) for grey; for TIFF also (N, H, W, 3).
            Integers are divided by the largest value of their type.
        upper: Likewise.
        target: Likewise.
        mask: Likewise, of 0 and 1 (or of 0 and 255).
        group_csv: Table with the column group, one row an image, in the order of the arrays.
    Raises:
        DataError: If a file is missing, unreadable, or of another shape.
    """
    paths = {"lower": lower, "upper": upper, "target": target}
    arrays = {name: _images(path, _open(path)) for name, path in paths.items()}
    shape = arrays["lower"].shape
    for name, array in arrays.items():
        if array.shape != shape:
            raise DataError(f"{paths[name]}: has shape {array.shape}, but {lower} has {shape}")
    chosen = None if mask is None else _mask(mask, shape)
    return LabelledBounds(**arrays, mask=chosen, groups=None if group_csv is None else _groups(group_csv, shape[0]))


def _groups(csv: str | Path, n_images: int) -> Any:
    labels = read_text_table(csv, ("group",))["group"].to_numpy()
    if len(labels) != n_images:
        raise DataError(f"{csv}: has {len(labels)} rows for {n_images} images: give one row an image")
    if (labels == "").any():
        raise DataError(f"{csv}: row {int(np.argmax(labels == '')) + 1} has no group")
    return labels


def _open(path: str | Path) -> Any:
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: is missing")
    try:
        if path.is_dir():
            return zarr.open_array(path, mode="r")
        if path.suffix.lower() in (".tif", ".tiff"):
            return tifffile.imread(path)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # decoders raise many unrelated types, and all mean the same to the user
        raise DataError(
            f"{path}: cannot be read as an array ({error}); give .npy, a zarr array or a TIFF stack"
        ) from error


def _images(path: str | Path, array: Any) -> Any:
    """(N, C, H, W) floats in [0, 1]; zarr arrays of floats in that order stay on disk."""
    is_last = array.ndim == 4 and array.shape[1] > 4 >= array.shape[3]  # colours last, as TIFF has them
    if array.ndim == 4 and array.dtype.kind == "f" and not is_last:
        return array
    if array.ndim not in (3, 4) or (array.ndim == 3 and min(array.shape[0], array.shape[2]) <= 4):
        raise DataError(
            f"{path}: has shape {array.shape}: (N, C, H, W) is needed, or (N, H, W) for at least 5 grey images; a "
            "single image is no calibration set"
        )
    values = np.asarray(array)
    if is_last:
        values = values.transpose(0, 3, 1, 2)
    if values.ndim == 3:
        values = values[:, None]
    if values.dtype.kind not in "uf":
        raise DataError(f"{path}: holds {values.dtype}: give floats in [0, 1] or unsigned integers")
    return values / np.float32(np.iinfo(values.dtype).max) if values.dtype.kind == "u" else values


def _mask(path: str | Path, shape: tuple[int, ...]) -> Any:
    values = np.asarray(_open(path))
    values = values[:, None] if values.ndim == 3 else values
    if values.shape not in (shape, (shape[0], 1, *shape[2:])):
        raise DataError(f"{path}: has shape {values.shape}, but the bounds have {shape}")
    if values.dtype == np.uint8 and values.max(initial=0) == 255:
        values = values // 255
    if not np.isin(values, (0, 1)).all():
        raise DataError(f"{path}: a mask holds 0 and 1 only (or 0 and 255)")
    return values.astype(np.uint8)
