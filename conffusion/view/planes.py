"""Pixel values as text in a page, without loss of what the files hold: planes of 8 or 16 bits, or of single bits.

A plane of values keeps the difference of each value from the one before it (modulo 2^bits), as PNG does, so that
it compresses; a 16-bit plane has all high bytes first. `pixels.js` undoes this. The planes of one image are
concatenated, deflated and written in base64.
"""

import base64
import zlib
from dataclasses import dataclass

import numpy as np

from conffusion.core.arrays import BoolArray, FloatArray

_EIGHT_BIT_TOLERANCE = 1e-3  # in steps of 1/255; the nearest other 16-bit value is 0.004 steps away
_COMPRESSION = 6


@dataclass(frozen=True)
class Plane:
    """A named array of a page.

    Attributes:
        name: What it is, as "lower" or "mask".
        n_channels: C of (C, H, W).
        bits: 8 or 16 (values in [0, 1], times 2^bits - 1), or 1.
        content: Its bytes.
    """

    name: str
    n_channels: int
    bits: int
    content: bytes

    @property
    def layout(self) -> tuple[str, int, int]:
        """What a page must know to read the bytes."""
        return self.name, self.n_channels, self.bits


def values_plane(name: str, values: FloatArray) -> Plane:
    """Values (C, H, W) in [0, 1]: with 8 bits where these hold them without loss, else rounded to 16 bits."""
    whole = np.rint(values * 255.0)
    eight = bool(np.abs(values * 255.0 - whole).max(initial=0.0) < _EIGHT_BIT_TOLERANCE)
    levels = whole.astype(np.uint8) if eight else np.rint(values * 65535.0).astype(np.uint16)
    steps = np.diff(levels.reshape(-1), prepend=levels.dtype.type(0))
    if eight:
        return Plane(name, len(values), 8, steps.tobytes())
    high, low = (steps >> 8).astype(np.uint8), (steps & 255).astype(np.uint8)
    return Plane(name, len(values), 16, high.tobytes() + low.tobytes())


def bits_plane(name: str, values: BoolArray) -> Plane:
    """Bits (C, H, W), eight in a byte, the first in its highest bit."""
    return Plane(name, len(values), 1, np.packbits(values.reshape(-1)).tobytes())


def as_text(planes: list[Plane]) -> str:
    """All planes of an image, compressed, in base64."""
    content = b"".join(plane.content for plane in planes)
    return base64.b64encode(zlib.compress(content, _COMPRESSION)).decode("ascii")
