"""Files of one image that Pillow opens: PNG, JPEG, PGM, PPM and BMP."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

from conffusion.errors import DataError
from conffusion.images.png import has_16_bits, is_png, read_chunks
from conffusion.images.raw_image import (
    CMYK_WARNING,
    TRUNCATED,
    ImageFile,
    Metadata,
    RawImage,
    Resolution,
    check_size,
    resolution_or_none,
)
from conffusion.images.sources import Location

FORMATS = ("PNG", "JPEG", "PPM", "BMP")
GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I")
COLOUR_MODES = ("RGB", "RGBA", "P", "PA", "CMYK")
ORIENTATION_TAG = 274  # of EXIF
CARRIED_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tEXt")
EXIF_IN_TEXT = b"Raw profile type"  # ImageMagick's; holds the orientation, which is applied
EXIF_HEADER = b"Exif\0\0"
CONVERT = "convert it to RGB with your colour profile (in an image editor) and try again"
END_OF_IMAGE = b"\xff\xd9"  # of JPEG
JPEG_TAIL = 4096  # bytes
PNM_HEADER = re.compile(rb"P([2356])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
PNM_HEADER_BYTES = 4096  # comments included


class PillowFile(ImageFile):
    """One image.

    Args:
        path: A file that is no TIFF.
        max_pixels: Pixels that it may have.
    Raises:
        DataError: If it is no image of these kinds, visibly truncated, too large, or neither grey nor colour.
    """

    def __init__(self, path: Location, max_pixels: int) -> None:
        self._path, self._max_pixels = path, max_pixels
        with path.open("rb") as file:
            image = self._open(file)
            self.sizes: Sequence[tuple[int, int]] = [(image.height, image.width)]
            if image.format == "PNG":
                read_chunks(file, ())
            if image.format in ("JPEG", "MPO"):
                check_jpeg_end(file)

    def verify(self) -> None:
        """Compare the checksums of a PNG."""
        with self._path.open("rb") as file:
            self._open(file).verify()

    def read(self, k: int) -> RawImage:
        """Decode the image."""
        with self._path.open("rb") as file:
            image = self._open(file)
            is_cmyk = image.mode == "CMYK"
            samples, white = _decode(file, image)
            exif, orientation = _exif(image)
            metadata = _metadata(file, image, exif)
            if is_cmyk:  # whose profile does not hold for RGB
                metadata = replace(metadata, icc_profile=None)
            warnings = (CMYK_WARNING,) if is_cmyk else ()
            return RawImage(samples, white, ".png", orientation=orientation, metadata=metadata, warnings=warnings)

    def _open(self, file: BinaryIO) -> Image.Image:
        image = _open_header(file)
        check_size(image.height, image.width, self._max_pixels)
        if image.mode not in (*GREY_MODES, *COLOUR_MODES):
            raise DataError(f"has the colour mode {image.mode}, which is neither grey nor RGB; {CONVERT}")
        return image


def check_jpeg_end(file: BinaryIO) -> None:
    """Find the end-of-image marker behind the start of the scan; thumbnails inside earlier segments are skipped.

    It is nearly always among the last bytes, so that the image itself is read only where it is not.
    """
    scan, length = _start_of_scan(file), file.seek(0, os.SEEK_END)
    for start in (max(scan, length - JPEG_TAIL), scan):
        file.seek(start)
        if END_OF_IMAGE in file.read():
            return
    raise DataError(TRUNCATED)


def _start_of_scan(file: BinaryIO) -> int:
    """Position behind the segments that precede the compressed image, or where they break off."""
    position = 2
    while True:
        file.seek(position)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:
            return position
        filler = head[1] == 0xFF
        position += 1 if filler else 2 + int.from_bytes(head[2:], "big")


def _open_header(file: BinaryIO) -> Image.Image:
    """As `Image.open`, but for Pillow's own limit of the number of pixels: `check_size` stands for it."""
    Image.preinit()
    file.seek(0)
    start = file.read(16)
    for kind in FORMATS:
        make, accepts = Image.OPEN[kind]
        if accepts is None or accepts(start):
            file.seek(0)
            return make(file, "")
    raise DataError("is no image in PNG, JPEG, TIFF, PGM, PPM, BMP or zarr; convert it to one of them")


def _decode(file: BinaryIO, image: Image.Image) -> tuple[npt.NDArray[Any], float]:
    """(H, W, 1 to 4) samples, and the value of white."""
    if image.format == "PPM" and (deep := _deep_pnm(file)) is not None:
        return deep
    if image.format == "PNG" and has_16_bits(file):  # Pillow cuts colours to 8
        file.seek(0)
        samples = imagecodecs.png_decode(file.read())
        return samples.reshape(*samples.shape[:2], -1), 65535
    file.seek(0)
    has_key = "transparency" in image.info
    image.load()
    if image.mode in ("P", "PA"):
        mode = "RGBA" if has_key or image.mode == "PA" else "RGB"
    elif image.mode in GREY_MODES:
        mode = "LA" if has_key or image.mode == "LA" else "L"
    elif image.mode == "CMYK":
        mode = "RGB"
    else:
        mode = "RGBA" if has_key else image.mode
    samples = np.asarray(image if image.mode == mode else image.convert(mode))
    return samples.reshape(*samples.shape[:2], -1), 255


def _deep_pnm(file: BinaryIO) -> tuple[npt.NDArray[Any], float] | None:
    """Samples and white of a PGM or PPM (binary or plain) of more than 8 bits; None for others, which Pillow reads."""
    file.seek(0)
    match = PNM_HEADER.match(file.read(PNM_HEADER_BYTES))
    if match is None or int(match[4]) <= 255:
        return None
    kind, width, height, largest = (int(number) for number in match.groups())
    shape = height, width, 3 if kind in (3, 6) else 1
    file.seek(match.end())
    body = file.read()
    is_plain = kind in (2, 3)
    values = np.array(body.split(), np.uint32) if is_plain else np.frombuffer(body, ">u2", len(body) // 2)
    n_values = int(np.prod(shape))
    if values.size < n_values:
        raise DataError(f"truncated: {values.size} of {n_values} values are there")
    if values[:n_values].max(initial=0) > largest:
        raise DataError(f"holds a value above the largest one that its header states ({largest})")
    return values[:n_values].reshape(shape).astype(np.uint16), largest


def _exif(image: Image.Image) -> tuple[bytes | None, int]:
    """EXIF without the orientation, and the orientation; damaged EXIF counts as none."""
    try:
        exif = image.getexif()
        orientation = int(exif.pop(ORIENTATION_TAG, 1))
        content = exif.tobytes().removeprefix(EXIF_HEADER) if len(exif) else None
    # Damaged EXIF raises a dozen unrelated types, and the pixels are whole all the same.
    except Exception:
        return None, 1
    return content, orientation


def _metadata(file: BinaryIO, image: Image.Image, exif: bytes | None) -> Metadata:
    info: Mapping[Any, Any] = image.info
    chunks = read_chunks(file, (*CARRIED_CHUNKS, b"pHYs")) if is_png(file) else []
    return Metadata(
        icc_profile=info.get("icc_profile") or None,
        resolution=_resolution(dict(chunks).get(b"pHYs"), info),
        exif=exif,
        png_chunks=tuple(
            (kind, content)
            for kind, content in chunks
            if kind in CARRIED_CHUNKS and not content.startswith(EXIF_IN_TEXT)
        ),
    )


def _resolution(physical: bytes | None, info: Mapping[Any, Any]) -> Resolution | None:
    """From PNG's own chunk, which counts pixels per metre, or from what Pillow makes of other headers."""
    if physical is not None and len(physical) == 9:
        x, y = int.from_bytes(physical[:4], "big"), int.from_bytes(physical[4:8], "big")
        return resolution_or_none(x, y, "m" if physical[8] == 1 else None)
    dpi = info.get("dpi")
    return resolution_or_none(float(dpi[0]), float(dpi[1]), "inch") if dpi else None
