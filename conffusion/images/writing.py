"""Images like an original: its bit depth, colour type, alpha and metadata, with other pixels."""

import io
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tifffile
import zarr
from PIL import Image as PillowImage

from conffusion.core.arrays import FloatArray
from conffusion.errors import ShapeError
from conffusion.images.image import Encoding, Image
from conffusion.images.png import encode_png
from conffusion.images.raw_image import Metadata
from conffusion.images.tiff_file import UNIT_CODES
from conffusion.store import atomic_path

Rounding = Literal["nearest", "down", "up"]

ROUND: Mapping[Rounding, Any] = MappingProxyType({"nearest": np.rint, "down": np.floor, "up": np.ceil})
# In units of the range: what float32 cannot tell apart is one value, so that "down" and "up" leave values of the
# original's own steps where they are.
SAME = 2.0**-23


def write_like(
    original: Image, path_without_suffix: str | Path, pixels: FloatArray, *, rounding: Rounding = "nearest"
) -> Path:
    """Write an image as the original is stored, atomically.

    PNG becomes PNG, TIFF TIFF, zarr zarr, everything else PNG. Alpha is carried over; where the size differs, it is
    resized bilinearly, and the resolution (pixels per unit of length) is multiplied by the change of size.

    Args:
        original: What the result is to be like.
        path_without_suffix: Where to write; the original's suffix is appended. Folders are made.
        pixels: (C, H, W) in [0, 1], of any size, C as in the original; values outside are clipped.
        rounding: To the next sample value: "nearest"; "down" for lower and "up" for upper bounds.
    Returns:
        The path written.
    Raises:
        ShapeError: If the channels are not the original's, or a value is not finite.
        StoreError: If the disk is full or the folder not writable; nothing is left then.
    """
    path = Path(f"{path_without_suffix}{original.suffix}")
    pixels = np.asarray(pixels)
    n_channels = original.samples.shape[2]
    if pixels.ndim != 3 or len(pixels) != n_channels or pixels.size == 0:
        raise ShapeError(f"{path}: pixels have shape {pixels.shape}, expected ({n_channels}, H, W) as {original.name}")
    if not np.isfinite(pixels).all():
        raise ShapeError(f"{path}: {np.count_nonzero(~np.isfinite(pixels))} values are not finite")
    planes = [quantise(plane, original.encoding, rounding) for plane in pixels]
    height, width = pixels.shape[1:]
    if original.alpha is not None:
        planes.append(_alpha_plane(original, height, width))
    metadata = _resized(original, height, width)
    with atomic_path(path) as temporary:
        _write(temporary, original.suffix, planes, metadata, original.encoding)
    return path


def quantise(values: npt.NDArray[Any], encoding: Encoding, rounding: Rounding) -> npt.NDArray[Any]:
    """Sample values, of the same shape, for values in [0, 1]."""
    black, white = encoding.black, encoding.white
    exact = black + np.clip(values.astype(np.float64), 0, 1) * (white - black)
    if encoding.dtype.kind == "f":
        return _to_float(exact, encoding.dtype, rounding, SAME * (white - black))
    nearest = np.rint(exact)
    is_step = abs(exact - nearest) <= SAME * (white - black)
    rounded = np.where(is_step, nearest, ROUND[rounding](exact))
    limits = np.iinfo(encoding.dtype)
    samples = np.clip(rounded, limits.min, limits.max).astype(encoding.dtype)
    return np.asarray(limits.max - samples if encoding.inverted else samples)


def _to_float(exact: npt.NDArray[Any], dtype: np.dtype[Any], rounding: Rounding, same: float) -> npt.NDArray[Any]:
    samples = exact.astype(dtype)
    if rounding == "nearest":
        return samples
    end = dtype.type(-np.inf if rounding == "down" else np.inf)
    wrong = (samples > exact + same) if rounding == "down" else (samples < exact - same)
    return np.where(wrong, np.nextafter(samples, end), samples)


def _alpha_plane(original: Image, height: int, width: int) -> npt.NDArray[Any]:
    alpha, dtype = original.alpha, original.encoding.dtype
    if alpha is not None and alpha.shape != (height, width):
        alpha = np.asarray(PillowImage.fromarray(alpha).resize((width, height), PillowImage.Resampling.BILINEAR))
    full = float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0
    return quantise(np.asarray(alpha), Encoding(dtype, 0.0, full), "nearest")


def _resized(original: Image, height: int, width: int) -> Metadata:
    """Metadata of the same things shown with another number of pixels."""
    metadata, (old_height, old_width) = original.metadata, original.size
    if metadata.resolution is None:
        return metadata
    resolution = metadata.resolution.scaled(Fraction(width, old_width), Fraction(height, old_height))
    return replace(metadata, resolution=resolution)


def _write(path: Path, suffix: str, planes: list[npt.NDArray[Any]], metadata: Metadata, encoding: Encoding) -> None:
    if suffix == ".tif":
        _write_tiff(path, planes, metadata, inverted=encoding.inverted)
    elif suffix == ".zarr":
        _write_zarr(path, planes, metadata)
    else:
        path.write_bytes(encode_png(np.stack(planes, axis=2), metadata))


def _write_tiff(path: Path, planes: list[npt.NDArray[Any]], metadata: Metadata, *, inverted: bool) -> None:
    resolution = metadata.resolution
    grey = "miniswhite" if inverted else "minisblack"
    texts = [(code, 2, 0, text, True) for code, text in metadata.tiff_tags]
    content = io.BytesIO()  # tifffile itself does not say why a disk refuses
    tifffile.imwrite(
        content,
        np.stack(planes, axis=2) if len(planes) > 1 else planes[0],
        photometric="rgb" if len(planes) > 2 else grey,
        planarconfig="contig" if len(planes) > 1 else None,
        description=metadata.description,
        resolution=None if resolution is None else (_ratio(resolution.x), _ratio(resolution.y)),
        resolutionunit=None if resolution is None else UNIT_CODES.get(resolution.unit),
        iccprofile=metadata.icc_profile,
        software=False,
        metadata=None,
        extratags=texts,
        **metadata.tiff_layout,
    )
    path.write_bytes(content.getbuffer())


def _write_zarr(path: Path, planes: list[npt.NDArray[Any]], metadata: Metadata) -> None:
    zarr.create_array(
        store=str(path),
        data=np.stack(planes),
        attributes=dict(metadata.attributes),
        zarr_format=metadata.zarr_format,
    )


def _ratio(number: Fraction) -> tuple[int, int]:
    small = number.limit_denominator(10**4)
    return min(small.numerator, 2**32 - 1), small.denominator
