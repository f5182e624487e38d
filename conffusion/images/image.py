"""One reader of images for all commands and the workflow: as their files hold them, with what results carry over."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import FloatArray
from conffusion.errors import DataError
from conffusion.images.pillow_file import PillowFile
from conffusion.images.raw_image import ImageFile, Metadata, RawImage
from conffusion.images.sources import Location, Member
from conffusion.images.tiff_file import TiffFile, is_tiff
from conffusion.images.zarr_file import ZarrFile, is_zarr_folder

MAX_PIXELS = 100_000_000  # per image
MAX_SHARE_OUTSIDE = 0.001  # of the samples, outside a value range; hot pixels are fewer
TWELVE_BITS = 4095

# What turns stored rows into upright ones, for each value of the orientation tag but 1.
UPRIGHT: dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


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


@dataclass(frozen=True, eq=False)
class Image:
    """One image as its file holds it, upright.

    Attributes:
        name: The path as given, for messages; of several images in a file `stack.tif[3]`, counted from 0.
        samples: (H, W, C) in the file's own type; C is 1 for grey and 3 for colour, and larger values are brighter.
        black: Sample value that stands for 0.
        white: Sample value that stands for 1.
        alpha: (H, W) float32 in [0, 1]; None where the image has none.
        suffix: Of results like it: ".png", ".tif" or ".zarr".
        encoding: How they store their samples.
        metadata: What else they carry over.
        warnings: Sentences about the values, for people; `kinds_of_warnings` counts those of many images.
    """

    name: str
    samples: npt.NDArray[Any]
    black: float
    white: float
    alpha: FloatArray | None
    suffix: str
    encoding: Encoding
    metadata: Metadata
    warnings: tuple[str, ...] = ()

    @cached_property
    def pixels(self) -> FloatArray:
        """(C, H, W) float32 in [0, 1]; values outside the range are clipped."""
        exact: Any = np.float32 if self.samples.dtype.itemsize <= 2 else np.float64  # of 16 bits and less float32 is
        scaled = (self.samples.astype(exact) - exact(self.black)) / exact(self.white - self.black)
        return np.ascontiguousarray(np.clip(scaled, 0, 1).astype(np.float32).transpose(2, 0, 1))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.samples.shape[0], self.samples.shape[1]

    @property
    def bit_depth(self) -> int:
        """8, 16, or 32 for floating point and deeper integers."""
        return {"u1": 8, "u2": 16}.get(self.encoding.dtype.str[1:], 32)

    @property
    def has_grey_levels(self) -> bool:
        """Whether the samples are the 256 grey levels of common photographs, with 0 for black and 255 for white."""
        return self.samples.dtype == np.uint8 and (self.black, self.white) == (0, 255)


class ImageSequence(Sequence[Image]):
    """The images of one file, each read when it is asked for; made by `open_images`, in any thread."""

    def __init__(self, path: Location, file: ImageFile, value_range: tuple[float, float] | None) -> None:
        self.path, self._file, self._value_range = path, file, value_range

    def __len__(self) -> int:
        """Number of images, at least 1."""
        return len(self._file.sizes)

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """(height, width) of each image as stored, before any rotation; known without decoding."""
        return self._file.sizes

    def verify(self) -> None:
        """Raise DataError if the file is damaged, as far as that shows without decoding."""
        with naming_file(str(self.path)):
            self._file.verify()

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
            return _image(self.name(index), self._file.read(index), self._value_range)


def open_images(
    path: str | Location, *, max_pixels: int = MAX_PIXELS, value_range: tuple[float, float] | None = None
) -> ImageSequence:
    """The images of one file: a PNG, JPEG, PGM, PPM or BMP, the pages of a TIFF, or a zarr array.

    What a file holds is told from its content. Only headers are read here. EXIF rotation is applied, palettes are
    looked up, CMYK is converted to RGB, alpha is kept apart.

    Args:
        path: A file on disk or of an archive, or the folder of a zarr array of shape (C, H, W) or (N, C, H, W), or of a
            group with one.
        max_pixels: Pixels (height times width) that one image may have.
        value_range: (low, high): sample values that stand for 0 and 1. None: 0 and the largest value of the sample's
            type, and 0 and 1 for floating point. Results are mapped back. Up to 0.1 % of the values may lie outside;
            they are clipped, with a warning that counts them.
    Returns:
        A sequence that decodes image k at `[k]`.
    Raises:
        DataError: If the file is missing, damaged, too large or not supported; the message starts with its name.
    """
    path = path if isinstance(path, Member) else Path(path)
    if value_range is not None and not (np.isfinite(value_range).all() and value_range[0] < value_range[1]):
        raise DataError(f"--value-range {value_range[0]:g} {value_range[1]:g}: expected two numbers, LOW below HIGH")
    with naming_file(str(path)):
        return ImageSequence(path, _open_file(path, max_pixels), value_range)


def kinds_of_warnings(warnings: Iterable[str]) -> dict[str, int]:
    """How many images have each kind of warning; numbers make no kind of their own, and the first stands for all."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for warning in warnings:
        counts[first.setdefault(re.sub(r"[\d.e-]+", "#", warning), warning)] += 1
    return dict(counts)


@contextmanager
def naming_file(name: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a DataError that starts with its name."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{name}: is missing; restore the file or remove it from the list of images") from error
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    # Decoders raise a dozen unrelated types on damaged files, and all of them mean the same to the user.
    except Exception as error:
        raise DataError(f"{name}: cannot be read as an image ({error}); replace the file or remove it") from error


def _open_file(path: Location, max_pixels: int) -> ImageFile:
    if isinstance(path, Path) and path.is_dir():
        if is_zarr_folder(path):
            return ZarrFile(path, max_pixels)
        raise DataError("is a folder, not an image; images below a folder are listed by `list_images`")
    with path.open("rb") as file:
        return TiffFile(path, max_pixels) if is_tiff(file) else PillowFile(path, max_pixels)


def _image(name: str, raw: RawImage, value_range: tuple[float, float] | None) -> Image:
    samples, metadata = raw.samples, raw.metadata
    if samples.dtype.kind in "ui" and samples.dtype.itemsize > 4:
        raise DataError(
            f"values of type {samples.dtype} are not supported; save them with 32 bits or less, or as floats"
        )
    if raw.orientation in UPRIGHT:
        samples = UPRIGHT[raw.orientation](samples)
    if raw.orientation >= 5 and metadata.resolution is not None:
        metadata = replace(metadata, resolution=metadata.resolution.swapped())
    n_colours = 3 if samples.shape[2] >= 3 else 1
    colours, alpha = samples[..., :n_colours], samples[..., n_colours:]
    if raw.inverted and raw.white is not None:
        colours = (raw.white - colours).astype(samples.dtype)
    black, white = _limits(colours, raw.white, value_range)
    return Image(
        name=name,
        samples=np.ascontiguousarray(colours),
        black=black,
        white=white,
        alpha=(alpha[..., 0] / (raw.white or 1)).astype(np.float32) if alpha.shape[2] else None,
        suffix=raw.suffix,
        encoding=_encoding(raw, black, white),
        metadata=metadata,
        warnings=(*raw.warnings, *_value_warnings(colours, raw.white, value_range)),
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
    if white is not None and colours.dtype.kind == "u":
        return 0.0, float(white)
    least, most = colours.min(), colours.max()
    if white is None or least < 0 or most > white:
        expected = "no natural range" if white is None else "to lie in [0, 1]"
        raise DataError(
            f"values of type {colours.dtype} from {least:g} to {most:g} have {expected}; say which values are "
            "black and white with --value-range LOW HIGH (value_range), the same for all images of a model"
        )
    return 0.0, float(white)


def _value_warnings(
    colours: npt.NDArray[Any], white: float | None, value_range: tuple[float, float] | None
) -> Iterator[str]:
    """What people should know of the values.

    Raises:
        DataError: If more of them lie outside the range than are clipped.
    """
    if value_range is None:
        if white == 65535 and colours.max() <= TWELVE_BITS:
            yield (
                f"16-bit values reach only {colours.max()} of 65535; if the camera counts to {TWELVE_BITS}, "
                f"give --value-range 0 {TWELVE_BITS}"
            )
        return
    low, high = value_range
    n_outside = int(np.count_nonzero((colours < low) | (colours > high)))
    if n_outside:
        found = (
            f"{n_outside} of {colours.size} values lie outside --value-range {low:g} {high:g}: {colours.min():g} to "
            f"{colours.max():g}"
        )
        if n_outside > MAX_SHARE_OUTSIDE * colours.size:
            raise DataError(f"{found}; choose a range that holds them (up to {MAX_SHARE_OUTSIDE:.1%} are clipped)")
        yield f"{found}; they were clipped"


def _encoding(raw: RawImage, low: float, high: float) -> Encoding:
    """Samples of fewer bits, or with another white (PGM), use the whole of their type in results."""
    dtype = raw.samples.dtype.newbyteorder("=")
    if dtype.kind != "u" or raw.white is None:
        return Encoding(dtype, low, high)
    dtype = np.dtype(np.uint8) if raw.white <= 255 else dtype
    factor = np.iinfo(dtype).max / raw.white
    return Encoding(dtype, low * factor, high * factor, raw.inverted)
