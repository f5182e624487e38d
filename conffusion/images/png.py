"""What PNG files say beside their pixels: chunks, which are listed without decoding, and written with new pixels.

Source:
    Portable Network Graphics Specification (Third Edition), https://www.w3.org/TR/png-3/.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt

from conffusion.errors import DataError
from conffusion.images.raw_image import Metadata

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = len(SIGNATURE) + 8 + 13 + 4  # signature, then length, kind, content and checksum of IHDR
BIT_DEPTH_AT = len(SIGNATURE) + 8 + 8  # behind width and height


def is_png(file: BinaryIO) -> bool:
    """Whether the file starts as a PNG does, whatever its name."""
    file.seek(0)
    return file.read(len(SIGNATURE)) == SIGNATURE


def has_16_bits(file: BinaryIO) -> bool:
    """Whether a PNG has 16 bits a sample."""
    file.seek(BIT_DEPTH_AT)
    return file.read(1) == b"\x10"


def read_chunks(file: BinaryIO, kinds: Iterable[bytes], max_bytes: int = 2**24) -> list[tuple[bytes, bytes]]:
    """Kind and content of the chunks of some kinds, in order; all others are stepped over.

    Raises:
        DataError: If the file ends before its last chunk.
    """
    wanted = set(kinds)
    found = []
    for kind, length in _steps(file):
        if kind in wanted and length <= max_bytes:
            found.append((kind, file.read(length)))
    return found


def encode_png(samples: npt.NDArray[Any], metadata: Metadata) -> bytes:
    """One image as a PNG, losslessly.

    Args:
        samples: (H, W, 1 to 4) uint8 or uint16: grey or red, green, blue, and perhaps alpha.
        metadata: What the file says beside the pixels, as far as PNG can.
    """
    encoded = imagecodecs.png_encode(np.ascontiguousarray(samples), level=6)
    chunks = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in _chunks(metadata)
    )
    return bytes(encoded[:HEADER_END]) + chunks + bytes(encoded[HEADER_END:])


def _chunks(metadata: Metadata) -> Iterator[tuple[bytes, bytes]]:
    if metadata.icc_profile is not None:
        yield b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile)
    if metadata.resolution is not None:
        x, y = (min(round(number), 2**31 - 1) for number in metadata.resolution.per("m"))
        is_length = metadata.resolution.unit is not None
        yield b"pHYs", x.to_bytes(4, "big") + y.to_bytes(4, "big") + bytes([is_length])
    if metadata.exif is not None:
        yield b"eXIf", metadata.exif
    yield from metadata.png_chunks


def _steps(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of every chunk; the file stands at its content."""
    position = len(SIGNATURE)
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            raise DataError("truncated: the file ends before the image does; copy it again or remove it")
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        yield kind, length
        if kind == b"IEND":
            return
        position += 12 + length
