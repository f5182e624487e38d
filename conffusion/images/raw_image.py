"""One image as its file stores it: samples in their own type, and what else results like it have to carry over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, Protocol

import numpy.typing as npt

from conffusion.errors import DataError

N_COLOURS = (1, 3)  # grey, red green blue
TRUNCATED = "truncated: the file ends before the image does; copy it again or remove it"
CMYK_WARNING = "CMYK was converted to RGB without a colour profile, so colours may be off; results are RGB"
METRES = {"m": Fraction(1), "cm": Fraction(1, 100), "inch": Fraction(254, 10000)}


@dataclass(frozen=True)
class Resolution:
    """Pixels per unit of length.

    Attributes:
        x: Across, above 0.
        y: Down, above 0.
        unit: "m", "cm", "inch"; None where only the shape of a pixel is known.
    """

    x: Fraction
    y: Fraction
    unit: str | None

    def scaled(self, width_factor: Fraction, height_factor: Fraction) -> "Resolution":
        """Of an image of the same things with so many times as many pixels."""
        return replace(self, x=self.x * width_factor, y=self.y * height_factor)

    def swapped(self) -> "Resolution":
        """Of the image turned by 90 degrees."""
        return replace(self, x=self.y, y=self.x)

    def per(self, unit: str) -> tuple[Fraction, Fraction]:
        """Pixels per `unit` across and down; as they are where no unit is known."""
        factor = METRES[unit] / METRES[self.unit] if self.unit is not None else Fraction(1)
        return self.x * factor, self.y * factor


@dataclass(frozen=True)
class Metadata:
    """What a file says of its image beside the pixels; what is None or empty, the file does not say.

    Attributes:
        icc_profile: Colour profile.
        resolution: Pixels per unit of length.
        exif: EXIF in TIFF's structure, without the orientation.
        png_chunks: Kind and content of further PNG chunks that hold for any pixels.
        description: ImageDescription of TIFF, in UTF-8.
        tiff_tags: Further text tags of TIFF: code and text in UTF-8.
        tiff_layout: Arguments of `tifffile.imwrite` that say how samples are laid out and compressed.
        attributes: Of a zarr array.
        zarr_format: 2 or 3.
    """

    icc_profile: bytes | None = None
    resolution: Resolution | None = None
    exif: bytes | None = None
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    description: bytes | None = None
    tiff_tags: tuple[tuple[int, bytes], ...] = ()
    tiff_layout: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    zarr_format: Literal[2, 3] = 3


@dataclass(frozen=True)
class RawImage:
    """One decoded image.

    Attributes:
        samples: (H, W, 1 to 4): grey or red, green, blue, and alpha behind them if there is one.
        white: Sample value of full brightness; None where the type of the samples has no such value.
        inverted: Whether the file stores `white` minus the sample.
        orientation: 1 to 8, as in EXIF; 1 is upright.
        suffix: Of results like it.
        metadata: What else the file says.
        warnings: Sentences about how it was decoded, for people.
    """

    samples: npt.NDArray[Any]
    white: float | None
    suffix: str
    inverted: bool = False
    orientation: int = 1
    metadata: Metadata = field(default_factory=Metadata)
    warnings: tuple[str, ...] = ()


class ImageFile(Protocol):
    """A file whose headers have been read and found good; holds no open file.

    Attributes:
        sizes: (height, width) of each image as stored, before any rotation.
    """

    sizes: Sequence[tuple[int, int]]

    def verify(self) -> None:
        """Raise an error if the file is damaged, as far as that shows without decoding; most kinds show nothing."""
        return

    def read(self, k: int) -> RawImage:
        """Decode image k."""


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Refuse an image before it is decoded.

    Raises:
        DataError: If it has no pixels, or more than `max_pixels`.
    """
    if height < 1 or width < 1:
        raise DataError(f"holds no pixels ({width}x{height})")
    if height * width > max_pixels:
        raise DataError(
            f"has {width}x{height} = {height * width:,} pixels, more than the {max_pixels:,} allowed; "
            f"if that is no mistake, cut it, or raise the limit with --max-pixels {height * width} (max_pixels)"
        )


def resolution_or_none(x: float | Fraction, y: float | Fraction, unit: str | None) -> Resolution | None:
    """Resolution of two numbers from a header, None if they are no sensible ones."""
    try:
        across, down = (Fraction(number).limit_denominator(10**6) for number in (x, y))
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        return None
    return Resolution(across, down, unit) if across > 0 and down > 0 else None
