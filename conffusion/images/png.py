"""PNG files below Pillow: their chunks are listed without decoding anything, and 8 or 16 bits a sample are written.

Pillow writes no colour and no alpha of 16 bits; the format needs no more than zlib.

Source:
    Portable Network Graphics Specification (Third Edition), https://www.w3.org/TR/png-3/.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from conffusion.errors import DataError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # number of samples to colour type
ROW_ABOVE = 2  # filter: differences from the row above
ROWS_AT_A_TIME = 64


def is_png(file: BinaryIO) -> bool:
    """Whether the file starts as a PNG does, whatever its name."""
    file.seek(0)
    return file.read(len(SIGNATURE)) == SIGNATURE


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


def write_png(file: BinaryIO, samples: npt.NDArray[Any], chunks: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Write one image, losslessly.

    Args:
        file: Open for writing.
        samples: (H, W, 1 to 4) uint8 or uint16: grey or red, green, blue, and perhaps alpha.
        chunks: Kind and content of what stands before the pixels.
    """
    height, width, n_samples = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, COLOUR_TYPES[n_samples], 0, 0, 0)
    file.write(SIGNATURE)
    for kind, content in ((b"IHDR", header), *chunks):
        _write_chunk(file, kind, content)
    compressor = zlib.compressobj(6)
    for rows in _filtered_rows(samples):
        _write_chunk(file, b"IDAT", compressor.compress(rows))
    _write_chunk(file, b"IDAT", compressor.flush())
    _write_chunk(file, b"IEND", b"")


def _filtered_rows(samples: npt.NDArray[Any]) -> Iterator[bytes]:
    """Rows, some at a time: the number of the filter, then the differences from the row above."""
    above = np.zeros((1, samples.shape[1] * samples.shape[2] * samples.itemsize), np.uint8)
    for start in range(0, len(samples), ROWS_AT_A_TIME):
        part = samples[start : start + ROWS_AT_A_TIME]
        rows = part.astype(part.dtype.newbyteorder(">")).reshape(len(part), -1).view(np.uint8)
        differences = rows - np.concatenate([above, rows[:-1]])
        above = rows[-1:]
        yield np.concatenate([np.full((len(part), 1), ROW_ABOVE, np.uint8), differences], axis=1).tobytes()


def _write_chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    if content or kind != b"IDAT":
        file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))


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
