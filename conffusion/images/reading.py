"""Read one image file of any supported kind as colour pixels in its own precision."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from conffusion.core.arrays import FloatArray
from conffusion.errors import DataError
from conffusion.images import sixteen_bit
from conffusion.images.resize import PixelArray, from_uint8
from conffusion.images.sources import FolderSource, Source

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".bmp")
FORMATS = ("PNG", "JPEG", "TIFF", "PPM", "BMP")
ORIENTATION_TAG = 274  # of EXIF and of TIFF
GREY_MODES = ("1", "L", "LA", "La")
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L")
END_OF_IMAGE = b"\xff\xd9"  # of JPEG
JPEG_TAIL = 4096  # bytes

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


def read_image(path: str | Path, *, min_side: int = 1) -> FloatArray:
    """Read one image as float32 colour.

    PNG, JPEG, TIFF, PGM, PPM and BMP; grey is replicated, alpha dropped, palettes looked up, EXIF rotation applied;
    8 bits are divided by 255, 16 by 65535 (PGM, PPM: by the file's largest value). Of several pages the first is taken.

    Args:
        path: The file; what it holds is told from its content, not from its name.
        min_side: Smallest acceptable length of the shorter edge, in pixels.
    Returns:
        (3, H, W) float32 in [0, 1].
    Raises:
        DataError: If the file is missing, corrupt, truncated, unsupported or too small; the message names it.
    """
    root, file = FolderSource(Path(path).parent), Path(path).name
    pixels = read_pixels(root, file, min_side=min_side)
    pixels = from_uint8(pixels) if pixels.dtype == np.uint8 else pixels
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_pixels(source: Source, file: str, *, min_side: int = 1) -> PixelArray:
    """Like `read_image`, for a file of a source, but (H, W, 3), and uint8 where the file has 8 bits a sample."""
    with naming_file(source.describe(file)), source.open(file) as opened:
        stored, orientation = _decode(opened)
        upright = UPRIGHT[orientation](stored) if orientation in UPRIGHT else stored
        pixels = _to_colour(upright)
        check_min_side(pixels.shape[0], pixels.shape[1], min_side)
    return pixels


def read_size(source: Source, file: str) -> tuple[int, int]:
    """(height, width) as stored, before any rotation, from the header; PNG checksums and the end of a JPEG are checked.

    Raises:
        DataError: If the file is missing, not an image of a supported kind, or visibly damaged.
    """
    with naming_file(source.describe(file)), source.open(file) as opened:
        deep = sixteen_bit.deep_tiff_size(opened) if sixteen_bit.is_tiff(opened) else None
        if deep is not None:
            return deep
        with Image.open(opened, formats=FORMATS) as image:
            width, height = image.size
            image.verify()
            if image.format in ("JPEG", "MPO"):
                check_jpeg_end(opened)
        return height, width


def check_min_side(height: int, width: int, min_side: int) -> None:
    """Raise DataError if the shorter edge has fewer than `min_side` pixels."""
    if min(height, width) < min_side:
        raise DataError(
            f"is too small: {width}x{height} pixels, but the shorter edge must have at least {min_side}; "
            "remove the file or choose a smaller image_size or dataset.folder.tile_size"
        )


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


def _decode(file: BinaryIO) -> tuple[npt.NDArray[Any], int]:
    """RawImage samples, uint8 or float32, (H, W) or (H, W, samples), and the orientation tag."""
    if sixteen_bit.is_tiff(file) and sixteen_bit.deep_tiff_size(file) is not None:
        return sixteen_bit.read_deep_tiff(file)
    header = sixteen_bit.pnm_header(file)
    if header is not None and header.largest > 255:
        return sixteen_bit.read_deep_pnm(file), 1
    with Image.open(file, formats=FORMATS) as image:
        is_deep = sixteen_bit.is_deep_png(image)  # loading forgets it
        image.load()
        orientation = int(image.getexif().get(ORIENTATION_TAG, 1))  # after loading: Pillow turns TIFFs itself
        return (sixteen_bit.read_deep_png(file) if is_deep else _to_samples(image)), orientation


def _to_samples(image: Image.Image) -> npt.NDArray[Any]:
    if image.mode in SIXTEEN_BIT_MODES:
        return np.asarray(image).astype(np.float32) / np.float32(65535)
    if image.mode in ("I", "F"):
        raise DataError(f"samples of mode {image.mode!r} are not supported; save the image with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":  # not `convert`, which may blend
        return np.asarray(image)
    return np.asarray(image.convert("L" if image.mode in GREY_MODES else "RGB"))


def _to_colour(samples: npt.NDArray[Any]) -> PixelArray:
    """(H, W), (H, W, 1 or 2: grey and alpha) or (H, W, 3 or more: red, green, blue and others) to (H, W, 3)."""
    if samples.ndim == 2:
        samples = samples[..., None]
    if samples.shape[2] < 3:
        return np.repeat(samples[..., :1], 3, axis=2)
    return np.ascontiguousarray(samples[..., :3])


def check_jpeg_end(file: BinaryIO) -> None:
    """Find the end-of-image marker behind the start of the scan; thumbnails inside earlier segments are skipped.

    It is nearly always among the last bytes, so that the image itself is read only where it is not.
    """
    scan, length = _start_of_scan(file), file.seek(0, os.SEEK_END)
    for start in (max(scan, length - JPEG_TAIL), scan):
        file.seek(start)
        if END_OF_IMAGE in file.read():
            return
    raise DataError("truncated: the file ends before the image does; copy it again or remove it")


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
