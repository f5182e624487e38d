"""The page: one HTML file with style, scripts and pixels inside, which loads nothing."""

import base64
import hashlib
import io
import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from conffusion.core.arrays import BoolArray, FloatArray
from conffusion.errors import DataError
from conffusion.evaluation.drift import ATYPICAL
from conffusion.store import atomic_path
from conffusion.view.gallery import Gallery, Prediction, ViewedImage
from conffusion.view.planes import Plane, as_text, bits_plane, values_plane

PIXEL_BUDGET = 300_000_000  # bytes before compression; such a page is read within a few seconds
SIDES = (4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256, 192, 128, 96, 64)  # tried for the largest side, in pixels
HEAT_MAP = "viridis"  # as in the figures of the report
THUMBNAIL_SIDE = 64
_SCRIPTS = ("pixels.js", "paint.js", "panel.js", "imagelist.js", "reading.js", "app.js")
_SIZE_BINS = 1000
_FULL_COLOUR_QUANTILE = 0.99  # of all interval sizes: the size that has the last colour of the heat map


@dataclass(frozen=True)
class Page:
    """A page that was written.

    Attributes:
        path: The file.
        n_images: Images on it.
        n_bytes: Its size.
        max_side: Longer side of the largest image that is kept whole; None: every image is.
    """

    path: Path
    n_images: int
    n_bytes: int
    max_side: int | None


def write_page(gallery: Gallery, output: str | Path, max_side: int | None = None) -> Page:
    """Write the page; memory does not grow with the number of images beyond their names and thumbnails.

    An image whose longer side exceeds `max_side` is reduced to every k-th pixel of every k-th row. Nothing is averaged,
    so what the page shows stays the interval of a real pixel.

    Args:
        gallery: What to show.
        output: HTML file to write.
        max_side: Longest side of an image on the page, in pixels; None: what keeps the page within `PIXEL_BUDGET`.
    Raises:
        DataError: If an image cannot be read, or the images do not fit even at 64 pixels.
        StoreError: If the file cannot be written.
    """
    output = Path(output)
    side = max_side or fitting_side(gallery)
    with atomic_path(output) as temporary:
        with tempfile.TemporaryFile(dir=temporary.parent) as pixels:
            index = _write_pixels(gallery, side, pixels)
            pixels.seek(0)
            before, after = _shell(index)
            with temporary.open("wb") as page:
                page.write(before.encode("utf-8"))
                shutil.copyfileobj(pixels, page)
                page.write(after.encode("utf-8"))
    reduced = any(max(shape) > side for shape in gallery.shapes)
    return Page(output, len(gallery.shapes), output.stat().st_size, side if reduced else None)


def fitting_side(gallery: Gallery) -> int:
    """Longest side of `SIDES` at which the pixels of all images stay within the budget.

    Raises:
        DataError: If they do not at the smallest.
    """
    shapes = np.array(gallery.shapes)
    for side in SIDES:
        steps = -(-shapes.max(axis=1) // side)
        kept = -(-shapes // steps[:, None])
        if int(kept.prod(axis=1).sum()) * gallery.bytes_per_pixel <= PIXEL_BUDGET:
            return side
    raise DataError(
        f"{len(shapes):,} images are too many for one page, even reduced to {SIDES[-1]} pixels; show fewer of them with"
        " --first, or fewer methods"
    )


@dataclass
class _Scale:
    """Counts of interval sizes, from which the end of the colour scale is found."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_SIZE_BINS, dtype=np.int64))

    def add(self, prediction: Prediction, mask: BoolArray | None) -> None:
        sizes = (prediction.upper - prediction.lower).mean(axis=0)
        judged = sizes if mask is None else sizes[mask]
        self.counts += np.histogram(judged, bins=_SIZE_BINS, range=(0, 1))[0]

    @property
    def end(self) -> float:
        """A round number that nearly no size exceeds."""
        total = self.counts.cumsum()
        size = (1 + int(np.searchsorted(total, _FULL_COLOUR_QUANTILE * total[-1]))) / _SIZE_BINS
        step = 10.0 ** math.floor(math.log10(size)) / 2
        return round(math.ceil(size / step - 1e-9) * step, 6)


def _write_pixels(gallery: Gallery, side: int, output: IO[bytes]) -> dict[str, Any]:
    """Write the pixels of every image, and return what the scripts need to know about them."""
    layouts: dict[tuple[Any, ...], int] = {}
    entries, scale = [], _Scale()
    for place, image in enumerate(gallery.images()):
        for prediction in image.predictions:
            scale.add(prediction, image.mask)
        step = -(-max(gallery.shapes[place]) // side)
        planes = _planes(image, step)
        layout = layouts.setdefault(tuple(plane.layout for plane in planes), len(layouts))
        entries.append(_entry(image, step) | {"layout": layout})
        output.write(f'<script type="text/plain" id="p{place}">{as_text(planes)}</script>\n'.encode("ascii"))
    return {
        "title": gallery.title,
        "notes": list(gallery.notes),
        "sides": [
            asdict(one) | {"guarantee": str(one.guarantee), "is_guaranteed": one.guarantee.holds} | _means(entries, k)
            for k, one in enumerate(gallery.sides)
        ],
        "layouts": [list(layout) for layout in layouts],
        "images": entries,
        "scale_end": scale.end,
        "colours": _colours(),
        "atypical": ATYPICAL,
    }


def _planes(image: ViewedImage, step: int) -> list[Plane]:
    """Planes of every step-th pixel, from the middle of each step x step square on."""
    kept = (slice(None), slice(step // 2, None, step), slice(step // 2, None, step))
    if step // 2 >= min(image.predictions[0].lower.shape[1:]):
        kept = (slice(None), slice(None, None, step), slice(None, None, step))
    planes = []
    if image.given is not None:
        planes.append(values_plane("given", image.given[kept]))
    if image.target is not None:
        planes.append(values_plane("target", image.target[kept]))
    if image.mask is not None:
        planes.append(bits_plane("mask", image.mask[None][kept]))
    for k, one in enumerate(image.predictions):
        planes += [values_plane(f"lower{k}", one.lower[kept]), values_plane(f"upper{k}", one.upper[kept])]
        if one.estimate is not None:
            planes.append(values_plane(f"estimate{k}", one.estimate[kept]))
        if image.target is not None:
            missed = (image.target < one.lower) | (image.target > one.upper)
            planes.append(bits_plane(f"missed{k}", missed[kept]))
    return planes


def _entry(image: ViewedImage, step: int) -> dict[str, Any]:
    shown = image.predictions[0]
    middle = (shown.lower + shown.upper) / 2 if shown.estimate is None else shown.estimate
    return {
        "name": image.name,
        "size": list(middle.shape[1:]),
        "step": step,
        "thumbnail": _thumbnail(middle),
        "predictions": [
            {
                "risk": _rounded(one.risk),
                "size": _rounded(one.size_mean),
                "drift": _rounded(one.drift_p_value),
                "warnings": list(one.warnings),
            }
            for one in image.predictions
        ],
    }


def _means(entries: list[dict[str, Any]], side: int) -> dict[str, float | None]:
    """Mean risk and size over the images; None where an image has no truth."""
    means: dict[str, float | None] = {}
    for key in ("risk", "size"):
        values = [entry["predictions"][side][key] for entry in entries]
        means[f"mean_{key}"] = None if None in values else _rounded(float(np.mean(values)))
    return means


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _thumbnail(pixels: FloatArray) -> str:
    """A small JPEG in base64."""
    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80, subsampling=0)
    return base64.b64encode(content.getvalue()).decode("ascii")


def _colours() -> str:
    """256 colours of the heat map, red, green and blue bytes in base64."""
    table = np.rint(colormaps[HEAT_MAP](np.arange(256))[:, :3] * 255).astype(np.uint8)
    return base64.b64encode(table.tobytes()).decode("ascii")


def _shell(index: Mapping[str, Any]) -> tuple[str, str]:
    """The page before and after its pixels."""
    style, script = _asset("page.css"), "\n".join(_asset(name) for name in _SCRIPTS)
    script = f'(() => {{\n"use strict";\n{script}\n}})();\n'
    # Ends no element early, whatever the names hold: "<" occurs in no JSON but inside strings, where it may be escaped.
    text = json.dumps(index, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    before, after = _asset("page.html").split("<!--pixels-->\n")
    parts = {"style-digest": _digest(style), "script-digest": _digest(script), "style": style, "index": text}
    for name, content in (parts | {"script": script}).items():
        before = before.replace(f"<!--{name}-->", content)
    return before, after


def _asset(name: str) -> str:
    return files("conffusion.view").joinpath(name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    """What the page's content security policy calls a script or style sheet that it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode('utf-8')).digest()).decode('ascii')}"
