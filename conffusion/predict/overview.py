"""Pictures for people: interval size as a heat map, and panels side by side."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from conffusion.arrays import FloatArray
from conffusion.errors import ShapeError

Picture = npt.NDArray[np.uint8]  # (H, W, 3)
_COLOURS = "inferno"
_GAP, _LABEL, _BAR = 6, 16, 10  # pixels


def size_heat_map(size: FloatArray, largest: float) -> Picture:
    """Interval size in colour: black = 0, bright yellow = `largest` and above.

    Args:
        size: (H, W) or (C, H, W), of which the mean over channels is shown; in units of the [0, 1] range.
        largest: Size at the bright end, above 0.
    Returns:
        (H, W, 3) uint8.
    Raises:
        ShapeError: If the shape is another.
    """
    if size.ndim not in (2, 3):
        raise ShapeError(f"size has shape {size.shape}: must be (H, W) or (C, H, W)")
    plane = size.mean(axis=0) if size.ndim == 3 else size
    coloured: Any = colormaps[_COLOURS](np.clip(plane / largest, 0, 1), bytes=True)
    return np.ascontiguousarray(coloured[..., :3])


def side_by_side(panels: Mapping[str, Picture], largest: float) -> Picture:
    """Labelled panels in a row, and the scale of the heat map below the last one.

    Args:
        panels: Pictures of one size by their labels.
        largest: Interval size at the bright end of the scale.
    Returns:
        (H', W', 3) uint8.
    Raises:
        ShapeError: If the pictures differ in size.
    """
    shapes = {panel.shape for panel in panels.values()}
    if len(shapes) != 1:
        raise ShapeError(f"panels of different sizes: {sorted(shapes)}")
    height, width, _ = shapes.pop()
    column = max(width, 72) + _GAP
    page = Image.new("RGB", (column * len(panels) - _GAP, _LABEL + height + _BAR + _LABEL), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for place, (label, panel) in enumerate(panels.items()):
        draw.text((place * column, 1), label, fill="black", font=font)
        page.paste(Image.fromarray(panel), (place * column, _LABEL))
    left, top = (len(panels) - 1) * column, _LABEL + height + 3
    ramp = size_heat_map(np.tile(np.linspace(0, 1, max(width, 72)), (_BAR - 4, 1)), 1.0)
    page.paste(Image.fromarray(ramp), (left, top))
    draw.text((left, top + _BAR - 4), "0", fill="black", font=font)
    draw.text((left + max(width, 72), top + _BAR - 4), f"{largest:.2g}", fill="black", font=font, anchor="ra")
    return np.asarray(page)
