"""Pictures for people: heat maps of the interval size, panels side by side, and the risk curve of a calibration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from conffusion.calibration import Calibration
from conffusion.core.arrays import FloatArray, check_same_shape
from conffusion.errors import ShapeError
from conffusion.evaluation.diagnostics import RiskCurve
from conffusion.images.resize import to_uint8
from conffusion.inference.interval import Interval
from conffusion.store import atomic_path

Picture: TypeAlias = npt.NDArray[np.uint8]  # (H, W, 3)

HEAT_MAP = "viridis"  # perceptually uniform, in order in print without colour; as in the report
UNIT = "share of [0, 1]"
SMALLEST_SIDE, LARGEST_SIDE = 160, 640  # pixels of a panel, across
GAP, BAR_HEIGHT, FONT_SIZE, LINE_HEIGHT = 6, 10, 13, 18  # pixels
PAPER, INK = (255, 255, 255), (0, 0, 0)
HOLE = np.uint8(128)  # grey
_RISK, _LIMIT, _SIZE = "#0072B2", "#D55E00", "#6b6b6b"


def draw_pictures(image: FloatArray, interval: Interval, target: FloatArray | None = None) -> dict[str, Picture]:
    """Pictures of one prediction: `input`, `size`, and `overview` with all panels side by side.

    Args:
        image: (C, H, W) what was restored, in [0, 1].
        interval: The result, of the same or an enlarged size.
        target: Truth, of the size of the result; None where it is not known.
    """
    given, (height, width) = picture(image), interval.lower.shape[1:]
    if interval.mask is not None:
        given = np.where(interval.mask[..., None] == 1, HOLE, given)
    if given.shape[:2] != (height, width):
        rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), given.shape[:2], strict=True))
        given = given[rows[:, None], columns]
    largest = float(interval.size.max()) or 1.0
    heat = size_heat_map(np.where(interval.restored, interval.size, 0), largest)
    panels = {"input": given, **{name: picture(getattr(interval, name)) for name in ("lower", "estimate", "upper")}}
    if target is not None:
        panels["truth"] = picture(target)
    return {"input": given, "size": heat, "overview": side_by_side({**panels, "size": heat}, largest)}


def write_png(path: Path, pixels: npt.NDArray[Any]) -> str:
    """Write (H, W) or (H, W, 3) uint8 pixels, atomically; returns the file's name.

    Raises:
        StoreError: If the disk refuses.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG")
    return path.name


def picture(pixels: FloatArray) -> Picture:
    """8-bit RGB of one image.

    Args:
        pixels: (C, H, W) in [0, 1], C = 1 (grey) or 3; values outside are clipped.
    Returns:
        (H, W, 3) uint8.
    Raises:
        ShapeError: If it is of another shape.
    """
    if pixels.ndim != 3 or len(pixels) not in (1, 3):
        raise ShapeError(f"pixels have shape {pixels.shape}, expected (1 or 3, H, W)")
    return np.ascontiguousarray(np.broadcast_to(to_uint8(pixels), (3, *pixels.shape[1:])).transpose(1, 2, 0))


def size_heat_map(size: FloatArray, largest: float) -> Picture:
    """Colours of an interval size: dark is narrow, bright is wide.

    Args:
        size: (H, W), or (C, H, W), of which the mean over channels is shown; share of the range [0, 1].
        largest: Size that has the brightest colour, above 0; larger ones have it too.
    Returns:
        (H, W, 3) uint8.
    Raises:
        ShapeError: If `size` is of another shape, or `largest` not above 0.
    """
    if size.ndim not in (2, 3) or not largest > 0:
        raise ShapeError(f"size has shape {size.shape}, expected (H, W) or (C, H, W); largest = {largest} must be > 0")
    flat = size.mean(axis=0) if size.ndim == 3 else size
    colours: npt.NDArray[np.uint8] = colormaps[HEAT_MAP](np.clip(flat / largest, 0, 1), bytes=True)
    return np.ascontiguousarray(colours[..., :3])


def side_by_side(panels: Mapping[str, Picture], largest: float | None = None) -> Picture:
    """Panels in a row under their names; small ones enlarged without blur, large ones reduced.

    Args:
        panels: Name to picture, all of one size.
        largest: As for `size_heat_map`; then the last panel is a heat map and has a colour bar below it, with its unit.
    Returns:
        (H', W', 3) uint8.
    Raises:
        ShapeError: If the panels differ in size, or there are none.
    """
    if not panels:
        raise ShapeError("panels: expected at least one")
    height, width, _ = check_same_shape(**panels)
    images = {name: _fit(panel) for name, panel in panels.items()}
    shown_width, shown_height = next(iter(images.values())).size
    bar_height = 0 if largest is None else GAP + BAR_HEIGHT + 2 * LINE_HEIGHT
    canvas = Image.new(
        "RGB",
        (len(panels) * (shown_width + GAP) + GAP, LINE_HEIGHT + GAP + shown_height + bar_height + GAP),
        PAPER,
    )
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(FONT_SIZE)
    left, top = GAP, GAP + LINE_HEIGHT
    for name, image in images.items():
        canvas.paste(image, (left, top))
        draw.text((left + shown_width // 2, top - LINE_HEIGHT // 2), name, INK, font, anchor="mm")
        left += shown_width + GAP
    if largest is not None:
        _draw_bar(canvas, largest, left - shown_width - GAP, top + shown_height + GAP, shown_width)
    return np.asarray(canvas)


def draw_risk_curve(curve: RiskCurve, calibration: Calibration, output: str | Path) -> None:
    """Draw risk, its upper bound and mean size against the scale, with lambda_hat and alpha.

    Args:
        curve: Of the images that calibrated.
        calibration: The scale that was found.
        output: PNG file to write.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=160, layout="constrained")
    axes = figure.subplots()
    unit = "images" if calibration.unit == "image" else "groups"
    axes.fill_between(curve.lambdas, curve.risk, curve.risk_ucb, color=_RISK, alpha=0.2, linewidth=0)
    axes.plot(curve.lambdas, curve.risk_ucb, color=_RISK, linewidth=1, label=f"upper bound ({calibration.ucb})")
    axes.plot(curve.lambdas, curve.risk, color=_RISK, linewidth=2, label=f"risk on {calibration.n} {unit}")
    axes.axhline(calibration.alpha, color=_LIMIT, linestyle="--", linewidth=1.3, label=f"alpha = {calibration.alpha:g}")
    axes.axvline(calibration.lambda_hat, color="black", linewidth=1, label=f"lambda_hat = {calibration.lambda_hat:.4g}")
    axes.set(xlabel="scale lambda", ylabel="share of true values outside", ylim=(0, None))
    sizes = axes.twinx()
    sizes.plot(curve.lambdas, curve.size_mean, color=_SIZE, linestyle=":", linewidth=1.5, label="mean interval size")
    sizes.set(ylabel="mean interval size, share of [0, 1]", ylim=(0, None))
    axes.spines["top"].set_visible(False)
    sizes.spines["top"].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _fit(panel: Picture) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(panel))
    side = max(image.size)
    if side > LARGEST_SIDE:
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
        return image
    factor = max(1, -(-SMALLEST_SIDE // image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _draw_bar(canvas: Image.Image, largest: float, left: int, top: int, width: int) -> None:
    """Colours from 0 to `largest`, three numbers below them, and the unit."""
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    steps = np.tile(np.linspace(0, largest, width), (BAR_HEIGHT, 1))
    canvas.paste(Image.fromarray(size_heat_map(steps, largest)), (left, top))
    below = top + BAR_HEIGHT + LINE_HEIGHT // 2
    for x, value, anchor in ((0, 0.0, "lm"), (width // 2, largest / 2, "mm"), (width, largest, "rm")):
        draw.text((left + x, below), f"{value:.2g}", INK, font, anchor=anchor)
    draw.text((left + width // 2, below + LINE_HEIGHT), UNIT, INK, font, anchor="mm")
