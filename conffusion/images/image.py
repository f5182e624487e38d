"""A user's images as their files hold them, one at a time, with all that results like them have to carry over."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import FloatArray
from conffusion.errors import DataError
from conffusion.images import sixteen_bit
from conffusion.images.pillow_file import PillowFile
from conffusion.images.raw_image import ImageFile, Metadata, RawImage
from conffusion.images.reading import UPRIGHT, naming_file
from conffusion.images.tiff_file import TiffFile
from conffusion.images.zarr_file import ZarrFile, is_zarr_folder

MAX_PIXELS = 100_000_000  # per image
MAX_SHARE_OUTSIDE = 0.001  # of the samples, outside a value range; hot pixels are fewer
TWELVE_BITS = 4095


@dataclass(frozen=True)
class Encoding:
    """How results like an image store their samples.

    Attributes:
        dtype: Type of a sample.
        black: Sample value that stands for 0.
        white: Sample value that stands for 1.
        inverted: Whether the file then stores the largest value of the type minus that.
    """

    dtype: np.dtype[Any]
    black: float
    white: float
    inverted: bool = False


@dataclass(frozen=True)
class Image:
    """One image as its file holds it, upright.

    Attributes:
        name: The path as given, for messages; of several images in a file `stack.tif[3]`, counted from 0.
        pixels: (C, H, W) float32 in [0, 1]; C is 1 for grey and 3 for colour.
        bit_depth: 8, 16, or 32 for floating point and deeper integers.
        alpha: (H, W) float32 in [0, 1]; None where the image has none.
        suffix: Of results like it: ".png", ".tif" or ".zarr".
        encoding: How they store their samples.
        metadata: What else they carry over.
        warnings: Sentences about the values, for people.
    """

    name: str
    pixels: FloatArray
    bit_depth: int
    alpha: FloatArray | None
    suffix: str
    encoding: Encoding
    metadata: Metadata
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]


class ImageSequence(Sequence[Image]):
    """The images of one file, each read when it is asked for; made by `open_images`, in any thread."""

    def __init__(self, path: Path, file: ImageFile, value_range: tuple[float, float] | None) -> None:
        self.path, self._file, self._value_range = path, file, value_range

    def __len__(self) -> int:
        """Number of images, at least 1."""
        return len(self._file)

    def name(self, k: int) -> str:
        """Name of image k, without reading it."""
        return f"{self.path}[{k}]" if len(self) > 1 else str(self.path)

    @overload
    def __getitem__(self, k: int) -> Image: ...
    @overload
    def __getitem__(self, k: slice) -> Sequence[Image]: ...
    def __getitem__(self, k: int | slice) -> Image | Sequence[Image]:
        """Read image k.

        Raises:
            DataError: If it is damaged, or has values that are not finite or outside their range.
        """
        if isinstance(k, slice):
            return [self[index] for index in range(*k.indices(len(self)))]
        index = range(len(self))[k]
        with naming_file(self.name(index)):
            return _original(self.name(index), self._file.read(index), self._value_range)


def open_images(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, value_range: tuple[float, float] | None = None
) -> ImageSequence:
    """The images of one file: a PNG, JPEG, PGM, PPM or BMP, the pages of a TIFF, or a zarr array.

    What a file holds is told from its content. Only headers are read here. EXIF rotation is applied, palettes are
    looked up, alpha is kept apart.

    Args:
        path: A file, or the folder of a zarr array of shape (C, H, W) or (N, C, H, W), or of a group with one.
        max_pixels: Pixels (height times width) that one image may have.
        value_range: (low, high): sample values that stand for 0 and 1. None: 0 and the largest value of the sample's
            type, and 0 and 1 for floating point. Results are mapped back. Up to 0.1 % of the values may lie outside;
            they are clipped, with a warning that counts them.
    Returns:
        A sequence that decodes image k at `[k]`.
    Raises:
        DataError: If the file is missing, damaged, too large or not supported; the message starts with its name.
    """
    path = Path(path)
    if value_range is not None and not (np.isfinite(value_range).all() and value_range[0] < value_range[1]):
        raise DataError(f"--value-range {value_range[0]:g} {value_range[1]:g}: expected two numbers, LOW below HIGH")
    with naming_file(str(path)):
        return ImageSequence(path, _open_file(path, max_pixels), value_range)


def _open_file(path: Path, max_pixels: int) -> ImageFile:
    if path.is_dir():
        if is_zarr_folder(path):
            return ZarrFile(path, max_pixels)
        raise DataError("is a folder, not an image; images below a folder are listed by `list_images`")
    with path.open("rb") as file:
        is_tiff = sixteen_bit.is_tiff(file)
    return TiffFile(path, max_pixels) if is_tiff else PillowFile(path, max_pixels)


def _original(name: str, stored: RawImage, value_range: tuple[float, float] | None) -> Image:
    samples, metadata = stored.samples, stored.metadata
    if samples.dtype.kind in "ui" and samples.dtype.itemsize > 4:
        raise DataError(
            f"values of type {samples.dtype} are not supported; save them with 32 bits or less, or as floats"
        )
    if stored.orientation in UPRIGHT:
        samples = UPRIGHT[stored.orientation](samples)
    if stored.orientation >= 5 and metadata.resolution is not None:
        metadata = replace(metadata, resolution=metadata.resolution.swapped())
    n_colours = 3 if samples.shape[2] >= 3 else 1
    colours, alpha = samples[..., :n_colours], samples[..., n_colours:]
    if stored.inverted and stored.white is not None:
        colours = (stored.white - colours).astype(samples.dtype)
    low, high = _limits(colours, stored.white, value_range)
    pixels, warnings = _scale(colours, low, high)
    return Image(
        name=name,
        pixels=pixels.transpose(2, 0, 1).copy(),
        bit_depth={"u1": 8, "u2": 16}.get(_output_type(stored).str[1:], 32),
        alpha=(alpha[..., 0] / (stored.white or 1)).astype(np.float32) if alpha.shape[2] else None,
        suffix=stored.suffix,
        encoding=_encoding(stored, low, high),
        metadata=metadata,
        warnings=warnings + _dark_warning(colours, stored.white, value_range),
    )


def _limits(
    colours: npt.NDArray[Any], white: float | None, value_range: tuple[float, float] | None
) -> tuple[float, float]:
    """Sample values that stand for 0 and 1."""
    if colours.dtype.kind == "f":
        finite = np.isfinite(colours)
        if not finite.all():
            row, column, _ = np.argwhere(~finite)[0]
            raise DataError(
                f"{np.count_nonzero(~finite)} of {finite.size} values are not finite (the first at row {row}, column "
                f"{column}); replace them"
            )
    if value_range is not None:
        return float(value_range[0]), float(value_range[1])
    least, most = colours.min(), colours.max()
    if white is None or least < 0 or most > white:
        expected = "no natural range" if white is None else "to lie in [0, 1]"
        raise DataError(
            f"values of type {colours.dtype} from {least:g} to {most:g} have {expected}; say which values are "
            "black and white with --value-range LOW HIGH (value_range), the same for all images of a model"
        )
    return 0.0, float(white)


def _scale(colours: npt.NDArray[Any], low: float, high: float) -> tuple[FloatArray, tuple[str, ...]]:
    """(H, W, C) float32 in [0, 1], and a warning if values were clipped."""
    least, most = colours.min(), colours.max()
    warnings: tuple[str, ...] = ()
    if least < low or most > high:
        n_outside = int(np.count_nonzero((colours < low) | (colours > high)))
        found = (
            f"{n_outside} of {colours.size} values lie outside --value-range {low:g} {high:g}: {least:g} to {most:g}"
        )
        if n_outside > MAX_SHARE_OUTSIDE * colours.size:
            raise DataError(f"{found}; choose a range that holds them (up to {MAX_SHARE_OUTSIDE:.1%} are clipped)")
        warnings = (f"{found}; they were clipped",)
    exact: Any = np.float32 if colours.dtype.itemsize <= 2 else np.float64  # 16 bits and less are exact in float32
    scaled = (colours.astype(exact) - exact(low)) / exact(high - low)
    return np.clip(scaled, 0, 1).astype(np.float32), warnings


def _encoding(stored: RawImage, low: float, high: float) -> Encoding:
    """Samples of fewer bits, or with another white (PGM), use the whole of their type in results."""
    dtype = _output_type(stored)
    if dtype.kind != "u" or stored.white is None:
        return Encoding(dtype, low, high)
    factor = np.iinfo(dtype).max / stored.white
    return Encoding(dtype, low * factor, high * factor, stored.inverted)


def _output_type(stored: RawImage) -> np.dtype[Any]:
    dtype = stored.samples.dtype.newbyteorder("=")
    return np.dtype(np.uint8) if dtype.kind == "u" and stored.white is not None and stored.white <= 255 else dtype


def _dark_warning(
    colours: npt.NDArray[Any], white: float | None, value_range: tuple[float, float] | None
) -> tuple[str, ...]:
    if value_range is not None or white != 65535 or colours.max() > TWELVE_BITS:
        return ()
    return (
        f"16-bit values reach only {colours.max()} of 65535; if the camera counts to {TWELVE_BITS}, "
        f"give --value-range 0 {TWELVE_BITS}",
    )
