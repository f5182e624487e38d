"""TIFF files and stacks: each page is an image in its own bit depth."""

import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from conffusion.data import sixteen_bit
from conffusion.data.stored import Metadata, Resolution, Stored, check_size, resolution_or_none
from conffusion.errors import DataError

ICC_PROFILE, PHOTOMETRICS = 34675, ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "YCBCR")
CARRIED_TAGS = (271, 272, 306, 315, 33432)  # maker, model, date and time, artist, copyright
UNITS = {1: None, 2: "inch", 3: "cm"}
UNIT_CODES: dict[str | None, int] = {None: 1, "inch": 2, "cm": 3}
REDUCED_OR_MASK = 1 | 4  # bits of NewSubfileType
# Lines of ImageJ's description that count the images of a stack.
COUNTS = re.compile(r"^(images|channels|slices|frames|hyperstack|mode|loop)=")


class TiffFile:
    """The pages of a TIFF; thumbnails, smaller versions of a page and masks are passed over.

    Args:
        path: The file.
        max_pixels: Pixels that a page may have.
    Raises:
        DataError: If the file is damaged or truncated, or a page is too large, or neither grey nor RGB.
    """

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._path = path
        self._pages: list[tuple[int, int]] = []  # index in the file, and byte at which its tags start
        n_bytes = path.stat().st_size
        with tifffile.TiffFile(path) as tiff:
            _refuse_one_block(tiff)
            for index, page in enumerate(tiff.pages):
                if not isinstance(page, tifffile.TiffPage) or page.subfiletype & REDUCED_OR_MASK:
                    continue
                try:
                    _check_page(page, n_bytes, max_pixels)
                except DataError as error:
                    raise DataError(f"page {index}: {error}" if index else str(error)) from error
                self._pages.append((index, page.offset))
        if not self._pages:
            raise DataError("holds no image; replace the file or remove it")

    def __len__(self) -> int:
        """Number of pages."""
        return len(self._pages)

    def read(self, k: int) -> Stored:
        """Decode page k."""
        index, offset = self._pages[k]
        with self._path.open("rb") as file, tifffile.TiffFile(file) as tiff:
            tiff.filehandle.seek(offset)
            page = tifffile.TiffPage(tiff, index)
            samples, white = _decode(file, page, index)
            return Stored(
                samples,
                white,
                ".tif",
                inverted=sixteen_bit.is_inverted(page),
                orientation=sixteen_bit.tiff_orientation(page),
                metadata=_metadata(page),
            )


def _refuse_one_block(tiff: tifffile.TiffFile) -> None:
    n_images = int((tiff.imagej_metadata or {}).get("images", 1))
    if n_images > 1 and len(tiff.pages) == 1:
        raise DataError(
            f"holds {n_images} images behind one header, as ImageJ writes files above 4 GB; "
            "save it as an image sequence"
        )


def _check_page(page: tifffile.TiffPage, n_bytes: int, max_pixels: int) -> None:
    check_size(page.imagelength, page.imagewidth, max_pixels)
    photometric = sixteen_bit.photometric_name(page)
    if photometric not in PHOTOMETRICS:
        raise DataError(
            f"has the colour model {photometric}, which is neither grey nor RGB; "
            "convert it to RGB with your colour profile (in an image editor) and try again"
        )
    n_samples = page.samplesperpixel
    n_colours = 3 if photometric in ("RGB", "YCBCR") else 1
    if page.axes not in ("YX", "YXS", "SYX") or n_samples not in (n_colours, n_colours + 1):
        raise DataError(
            f"has {n_samples} samples per pixel (axes {page.axes}), expected {n_colours} and perhaps an alpha; "
            "save its channels as pages of a stack"
        )
    if page.dtype is None or page.dtype.kind not in "uifb":
        raise DataError(f"has samples of an unsupported type ({page.sampleformat}, {page.bitspersample} bits)")
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if max(ends, default=0) > n_bytes:
        raise DataError("truncated: the file ends before the image does; copy it again or remove it")


def _decode(file: BinaryIO, page: tifffile.TiffPage, index: int) -> tuple[npt.NDArray[Any], float | None]:
    """(H, W, 1 to 4) samples and the value of white."""
    if sixteen_bit.photometric_name(page) in ("PALETTE", "YCBCR"):
        return _with_samples_axis(_decode_with_pillow(file, index)), 255
    try:
        samples = sixteen_bit.tiff_samples(page)
    except DataError:  # compressed in a way that only Pillow knows, for some kinds of samples
        samples = _decode_with_pillow(file, index, page.dtype)
        if samples.dtype == np.uint8 and sixteen_bit.is_inverted(page):
            samples = 255 - samples  # Pillow has turned it already
        bits = samples.itemsize * 8
    else:
        bits = page.bitspersample
    samples = samples.astype(np.uint8) if samples.dtype == bool else samples
    white = {"u": 2.0**bits - 1 if bits <= 16 else None, "f": 1.0}.get(samples.dtype.kind)
    return _with_samples_axis(samples), white


def _with_samples_axis(samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return samples if samples.ndim == 3 else samples[..., None]


def _decode_with_pillow(file: BinaryIO, index: int, dtype: np.dtype[Any] | None = None) -> npt.NDArray[Any]:
    image: Any = _open_page(file, index)
    if image.mode in ("1", "P"):
        return np.asarray(image.convert("L" if image.mode == "1" else "RGB"))
    if dtype is None or dtype.itemsize == 1:
        return np.asarray(image.convert("RGB") if image.mode == "YCbCr" else image)
    raw_mode = str(image.tile[0].args[0]) if image.tile else ""
    samples = np.asarray(image)
    if raw_mode.endswith(";16N"):  # Pillow keeps the more significant byte of each pair; a second pass gives the other
        low: Any = _open_page(file, index)
        other_end = "B" if sys.byteorder == "little" else "L"
        low.tile = [tile._replace(args=(raw_mode[:-1] + other_end, *tile.args[1:])) for tile in low.tile]
        samples = samples if samples.dtype == np.uint16 else samples.astype(np.uint16) << 8 | np.asarray(low)
    if samples.dtype != dtype:
        raise DataError("is compressed in a way that cannot be read here; save it uncompressed or with deflate")
    return samples


def _open_page(file: BinaryIO, index: int) -> Image.Image:
    file.seek(0)
    image = Image.open(file, formats=("TIFF",))
    image.seek(index)
    return image


def _metadata(page: tifffile.TiffPage) -> Metadata:
    def text(code: int) -> str | None:
        tag = page.tags.get(code)
        return tag.value if tag is not None and isinstance(tag.value, str) else None

    profile = page.tags.get(ICC_PROFILE)
    tags = ((code, text(code)) for code in CARRIED_TAGS)
    return Metadata(
        icc_profile=bytes(profile.value) if profile is not None else None,
        resolution=_resolution(page),
        description=_description(page.description),
        tiff_tags=tuple((code, value) for code, value in tags if value),
        tiff_layout=_layout(page),
    )


def _resolution(page: tifffile.TiffPage) -> Resolution | None:
    x, y = page.tags.get(282), page.tags.get(283)
    if x is None or y is None:
        return None
    unit = page.tags.get(296)
    return resolution_or_none(
        Fraction(*x.value) if x.value[1] else 0,
        Fraction(*y.value) if y.value[1] else 0,
        UNITS.get(int(unit.value) if unit is not None else 2),
    )


def _description(text: str) -> str | None:
    """What still holds for a single page: no counts of images, and no descriptions of a whole stack in XML or JSON."""
    if text.startswith("ImageJ="):
        return "\n".join(line for line in text.splitlines() if not COUNTS.match(line)) + "\n"
    return None if not text or "<OME" in text or text.startswith(('{"shape"', '{"series"')) else text


def _layout(page: tifffile.TiffPage) -> dict[str, Any]:
    """Arguments of `tifffile.imwrite`: deflate stands for every compression."""
    layout: dict[str, Any] = {"byteorder": page.parent.byteorder}
    if page.compression != 1:
        layout["compression"] = "zlib"
    if page.samplesperpixel in (2, 4):
        layout["extrasamples"] = [int(page.extrasamples[0]) if page.extrasamples else 0]
    return layout
