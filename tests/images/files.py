"""Image files of kinds that Pillow cannot write, and archives of images."""

import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # number of samples to PNG's colour type


def pack(folder: Path, kind: str) -> Path:
    """Write all files below a folder to the archive beside it that has its name and the suffix `kind`: zip or tar."""
    archive = folder.with_name(f"{folder.name}.{kind}")
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for file in files:
                zipped.write(file, file.relative_to(folder))
        return archive
    with tarfile.open(archive, "w") as tarred:
        for file in files:
            tarred.add(file, file.relative_to(folder))
    return archive


def write_png16(path: Path, samples: np.ndarray) -> None:
    """Write (H, W, 1 to 4) uint16 as a 16-bit PNG; its rows take turns with PNG's five filters."""
    height, width, n_samples = samples.shape
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8).astype(int)
    step = 2 * n_samples
    previous = np.zeros_like(rows[0])
    filtered = []
    for y, row in enumerate(rows):
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), previous[:-step]])
        predicted = (0 * row, left, previous, (left + previous) // 2, _paeth(left, previous, corner))[y % 5]
        filtered.append(bytes([y % 5]) + ((row - predicted) % 256).astype(np.uint8).tobytes())
        previous = row
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[n_samples], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(filtered))), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks))


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    guess = left + above - corner
    distances = np.stack([abs(guess - left), abs(guess - above), abs(guess - corner)])
    return np.choose(distances.argmin(axis=0), [left, above, corner])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
