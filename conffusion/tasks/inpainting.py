"""Inpainting: a centred hole, filled with noise for the networks as in Palette."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from conffusion.core.arrays import FloatArray
from conffusion.errors import ConfigError
from conffusion.tasks.task import MaskArray, Photographs, Task

MID_GREY = 0.5  # 0 in [-1, 1]


def inpainting(*, hole: float = 0.5) -> Task:
    """The task of filling a hole in the middle.

    Args:
        hole: Its sides as a share of the image's, above 0 and below 1; 0.5 is the official box
            (h/4, w/4) to (3h/4, 3w/4).
    Raises:
        ConfigError: If the share is out of range.
    """
    if isinstance(hole, bool) or not isinstance(hole, int | float) or not 0 < hole < 1:
        raise ConfigError(f"inpainting: hole = {hole!r} must lie between 0 and 1, both excluded")
    centre = partial(centre_mask, hole=hole)
    return Task(
        "inpainting",
        "Inpainting",
        degrade=partial(grey_out, hole=hole),
        evaluated=centre,
        has_mask=True,
        fill="noise",
    )


def centre_mask(height: int, width: int, *, hole: float) -> MaskArray:
    """(height, width) mask, 1 in the centred hole."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[_centred(height, hole), _centred(width, hole)] = 1
    return mask


def grey_out(
    target: FloatArray, image_ids: Sequence[str], seed: int, photographs: Photographs | None, *, hole: float
) -> FloatArray:
    """The target with mid grey in the hole: what is stored; networks get noise there."""
    return np.where(centre_mask(*target.shape[-2:], hole=hole) == 1, np.float32(MID_GREY), target)


def _centred(length: int, hole: float) -> slice:
    """Start and length are rounded down, as official; the tiny term undoes errors of the product."""
    start = int(length * (1 - hole) / 2 + 1e-9)
    return slice(start, start + int(length * hole + 1e-9))
