"""Decoders for what Pillow would cut to 8 bits: PNG, PGM/PPM and TIFF images with deeper samples.

Each takes a file that is open for reading, at any position, and returns (H, W) or (H, W, samples) float32 in [0, 1];
rows are as stored, before any rotation.
"""

import re
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from conffusion.core.arrays import FloatArray
from conffusion.errors import DataError

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNM_HEADER = re.compile(rb"P([2356])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
PNM_HEADER_BYTES = 4096  # comments included
READABLE_PHOTOMETRIC = ("MINISWHITE", "MINISBLACK", "RGB")

# Pillow keeps the first byte of each big-endian pair under the mode on the left; the mode on the right makes it
# keep the second one, so that two passes give both.
PNG_SECOND_BYTE = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}


def is_deep_png(image: Image.Image) -> bool:
    """Whether an opened, not yet decoded image is a colour or grey-alpha PNG of 16 bits a sample."""
    return image.format == "PNG" and _png_raw_mode(image) in (*PNG_SECOND_BYTE, "LA;16B")


def read_deep_png(file: BinaryIO) -> FloatArray:
    """Decode a PNG for which `is_deep_png` holds."""
    return _scale(deep_png_samples(file), 65535)


def deep_png_samples(file: BinaryIO) -> npt.NDArray[np.uint16]:
    """(H, W, samples) as stored, of a PNG for which `is_deep_png` holds; its size is for the caller to check."""
    with _open_png(file) as image:
        raw_mode = _png_raw_mode(image)
    if raw_mode == "LA;16B":  # read as if it were RGBA: high and low byte of grey, high and low byte of alpha
        pairs = _decode_png_as(file, "RGBA")
        high, low = pairs[..., 0::2], pairs[..., 1::2]
    else:
        high, low = _decode_png_as(file, raw_mode), _decode_png_as(file, PNG_SECOND_BYTE[raw_mode])
    return np.asarray(high.astype(np.uint16) << 8 | low, dtype=np.uint16)


class PnmHeader(NamedTuple):
    """Header of a PGM or PPM file: digit of the kind, size in pixels, largest value, first byte of the values."""

    kind: int
    width: int
    height: int
    largest: int
    n_bytes: int

    @property
    def n_channels(self) -> int:
        """3 for PPM, 1 for PGM."""
        return 3 if self.kind in (3, 6) else 1


def pnm_header(file: BinaryIO) -> PnmHeader | None:
    """Header of a PGM or PPM file, None for other files."""
    file.seek(0)
    match = PNM_HEADER.match(file.read(PNM_HEADER_BYTES))
    if match is None:
        return None
    kind, width, height, largest = (int(number) for number in match.groups())
    return PnmHeader(kind, width, height, largest, match.end())


def read_deep_pnm(file: BinaryIO) -> FloatArray:
    """Decode a PGM or PPM file (binary or plain) with values up to 65535, scaled by its own largest value.

    Raises:
        DataError: If the file is shorter than its header says, or a value exceeds the stated largest one.
    """
    header = pnm_header(file)
    if header is None:
        raise DataError("not a PGM or PPM file")
    return _scale(pnm_samples(file, header), header.largest)


def pnm_samples(file: BinaryIO, header: PnmHeader) -> npt.NDArray[Any]:
    """(H, W, samples) as stored, of the PGM or PPM file that has this header; errors as of `read_deep_pnm`."""
    file.seek(header.n_bytes)
    values = _pnm_values(file.read(), header)
    shape = header.height, header.width, header.n_channels
    n_values = int(np.prod(shape))
    if values.size < n_values:
        raise DataError(f"truncated: {values.size} of {n_values} values are there")
    if values[:n_values].max(initial=0) > header.largest:
        raise DataError(f"holds a value above the largest one that its header states ({header.largest})")
    return values[:n_values].reshape(shape)


def is_tiff(file: BinaryIO) -> bool:
    """Whether the file starts as a TIFF does, whatever its name."""
    file.seek(0)
    return file.read(4) in TIFF_MAGIC


def deep_tiff_size(file: BinaryIO) -> tuple[int, int] | None:
    """(height, width) of a TIFF of more than 8 bits a sample; None where Pillow reads the file without loss."""
    with _open_tiff(file) as tiff:
        page = _first_page(tiff)
        if page.dtype is None or page.dtype.itemsize == 1:
            return None
        return int(page.imagelength), int(page.imagewidth)


def read_deep_tiff(file: BinaryIO) -> tuple[FloatArray, int]:
    """Pixels and orientation tag (1 to 8) of the first page of a TIFF for which `deep_tiff_size` is not None.

    Raises:
        DataError: If the samples are neither unsigned integers of at most 16 bits nor floats in [0, 1], if the colour
            model is unsupported, or if the compression needs a package that is not installed.
    """
    with _open_tiff(file) as tiff:
        page = _first_page(tiff)
        check_tiff_layout(page)
        pixels = _scale_tiff(tiff_samples(page), page.bitspersample)
        return 1 - pixels if is_inverted(page) else pixels, tiff_orientation(page)


def check_tiff_layout(page: Any) -> None:
    """Raise DataError unless a page of a TIFF is one grey or RGB image, perhaps with further samples."""
    photometric = photometric_name(page)
    if photometric not in READABLE_PHOTOMETRIC or page.axes not in ("YX", "YXS", "SYX"):
        kind = f"colour model {photometric} and axes {page.axes}"
        raise DataError(f"TIFF with {kind} is not supported; save it as RGB")


def tiff_samples(page: Any) -> npt.NDArray[Any]:
    """(H, W) or (H, W, samples) as stored in a page of a TIFF.

    Raises:
        DataError: If the compression needs a package that is not installed.
    """
    try:
        samples = page.asarray()
    except (KeyError, ValueError, ImportError) as error:
        raise DataError(f"{error}; save it uncompressed or with deflate, or install imagecodecs") from error
    return np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples


def photometric_name(page: Any) -> str:
    """Colour model of a page of a TIFF, such as MINISBLACK or RGB."""
    return str(getattr(page.photometric, "name", page.photometric))


def is_inverted(page: Any) -> bool:
    """Whether the smallest value of a page of a TIFF is white."""
    return photometric_name(page) == "MINISWHITE"


def tiff_orientation(page: Any) -> int:
    """Orientation tag of a page of a TIFF, 1 if it has none."""
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None else 1


def _pnm_values(body: bytes, header: PnmHeader) -> npt.NDArray[Any]:
    if header.kind in (2, 3):
        return np.array(body.split(), dtype=np.uint32)
    sample = np.dtype(">u2" if header.largest > 255 else "u1")
    return np.frombuffer(body, dtype=sample, count=len(body) // sample.itemsize)


def _open_tiff(file: BinaryIO) -> tifffile.TiffFile:
    file.seek(0)
    return tifffile.TiffFile(file)


def _first_page(tiff: tifffile.TiffFile) -> Any:
    return tiff.pages.first


def _scale_tiff(samples: npt.NDArray[Any], bits: int) -> FloatArray:
    if samples.dtype.kind == "u" and bits <= 16:
        return _scale(samples, 2**bits - 1)
    if samples.dtype.kind == "f" and np.isfinite(samples).all() and samples.min() >= 0 and samples.max() <= 1:
        return samples.astype(np.float32)
    raise DataError(f"TIFF samples of type {samples.dtype} must be unsigned with at most 16 bits, or floats in [0, 1]")


def _scale(values: npt.NDArray[Any], largest: int) -> FloatArray:
    return values.astype(np.float32) / np.float32(largest)


def _png_raw_mode(image: Any) -> str:
    return str(image.tile[0].args) if image.tile else ""


def _open_png(file: BinaryIO) -> PngImageFile:
    file.seek(0)
    return PngImageFile(file)


def _decode_png_as(file: BinaryIO, raw_mode: str) -> npt.NDArray[np.uint8]:
    with _open_png(file) as image:
        opened: Any = image
        opened.tile = [opened.tile[0]._replace(args=raw_mode)]
        return np.asarray(opened)
