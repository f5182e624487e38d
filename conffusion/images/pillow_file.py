"""Files of one image that Pillow opens: PNG, JPEG, PGM, PPM and BMP."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from conffusion.errors import DataError
from conffusion.images import sixteen_bit
from conffusion.images.png import is_png, read_chunks
from conffusion.images.raw_image import Metadata, RawImage, Resolution, check_size, resolution_or_none
from conffusion.images.reading import GREY_MODES, ORIENTATION_TAG, SIXTEEN_BIT_MODES, check_jpeg_end

FORMATS = ("PNG", "JPEG", "PPM", "BMP")
COLOUR_MODES = ("RGB", "RGBA", "P", "PA")
CARRIED_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tEXt")
EXIF_IN_TEXT = b"Raw profile type"  # ImageMagick's; holds the orientation, which is applied
EXIF_HEADER = b"Exif\0\0"
CONVERT = "convert it to RGB with your colour profile (in an image editor) and try again"


class PillowFile:
    """One image.

    Args:
        path: A file that is no TIFF.
        max_pixels: Pixels that it may have.
    Raises:
        DataError: If it is no image of these kinds, visibly truncated, too large, or neither grey nor RGB.
    """

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._path, self._max_pixels = path, max_pixels
        with path.open("rb") as file:
            image = self._open(file)
            if image.format == "PNG":
                read_chunks(file, ())
            if image.format in ("JPEG", "MPO"):
                check_jpeg_end(file)

    def __len__(self) -> int:
        """One image."""
        return 1

    def read(self, k: int) -> RawImage:
        """Decode the image."""
        with self._path.open("rb") as file:
            image = self._open(file)
            samples, white = _decode(file, image)
            exif, orientation = _exif(image)
            return RawImage(samples, white, ".png", orientation=orientation, metadata=_metadata(file, image, exif))

    def _open(self, file: BinaryIO) -> Image.Image:
        image = _open_header(file)
        check_size(image.height, image.width, self._max_pixels)
        if image.mode not in (*GREY_MODES, *SIXTEEN_BIT_MODES, *COLOUR_MODES, "I"):
            raise DataError(f"has the colour mode {image.mode}, which is neither grey nor RGB; {CONVERT}")
        return image


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
    header = sixteen_bit.pnm_header(file)
    if header is not None and header.largest > 255:
        return sixteen_bit.pnm_samples(file, header), header.largest
    file.seek(0)
    is_deep = sixteen_bit.is_deep_png(image)  # loading forgets it
    key = image.info.get("transparency")
    image.load()
    if image.mode in ("I", *SIXTEEN_BIT_MODES):
        return _key_as_alpha(np.asarray(image).astype(np.uint16)[..., None], key), 65535
    if is_deep:
        return _key_as_alpha(sixteen_bit.deep_png_samples(file), key), 65535
    return _eight_bit_samples(image, has_key=key is not None), 255


def _eight_bit_samples(image: Image.Image, *, has_key: bool) -> npt.NDArray[np.uint8]:
    if image.mode in ("P", "PA"):
        mode = "RGBA" if has_key or image.mode == "PA" else "RGB"
    elif image.mode in GREY_MODES:
        mode = "LA" if has_key or image.mode == "LA" else "L"
    else:
        mode = "RGBA" if has_key else image.mode
    samples = np.asarray(image if image.mode == mode else image.convert(mode))
    return samples if samples.ndim == 3 else samples[..., None]


def _key_as_alpha(samples: npt.NDArray[np.uint16], key: Any) -> npt.NDArray[np.uint16]:
    """The one colour that a PNG names as transparent, as an alpha."""
    if key is None:
        return samples
    alpha = (samples != np.array(key)).any(axis=2, keepdims=True) * np.uint16(65535)
    return np.concatenate([samples, alpha], axis=2)


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


def png_chunks(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Chunks that carry all of this that PNG has a place for."""
    chunks = []
    if metadata.icc_profile is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile)))
    if metadata.resolution is not None:
        x, y = (min(round(number), 2**31 - 1) for number in metadata.resolution.per("m"))
        is_length = metadata.resolution.unit is not None
        chunks.append((b"pHYs", x.to_bytes(4, "big") + y.to_bytes(4, "big") + bytes([is_length])))
    if metadata.exif is not None:
        chunks.append((b"eXIf", metadata.exif))
    return [*chunks, *metadata.png_chunks]
