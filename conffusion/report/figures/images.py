"""What the image figures show: some test images, the calibrated bounds of an method_run, and panels to draw them in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from conffusion.calibration.record import read_calibration
from conffusion.core.arrays import FloatArray
from conffusion.core.layout import ResultFolder
from conffusion.errors import DataError, StoreError
from conffusion.report.figures.style import CONTEXT_FADE, HEAT_MAP
from conffusion.report.results import method_label
from conffusion.store import SealedStore, open_store, read_array, read_json


@dataclass(frozen=True)
class Examples:
    """Some test images.

    Attributes:
        rows: Their places in the test split.
        image_ids: Ids of all test images.
        target: (n, C, H, W) in [0, 1].
        condition: (n, C, H, W) in [0, 1], what the method was shown.
        mask: (n, H, W), True where a pixel is judged.
    """

    rows: tuple[int, ...]
    image_ids: tuple[str, ...]
    target: FloatArray
    condition: FloatArray
    mask: npt.NDArray[np.bool_]

    @property
    def names(self) -> list[str]:
        """Short ids of the chosen images."""
        return [shorten(self.image_ids[row]) for row in self.rows]


@dataclass(frozen=True)
class Bounds:
    """Calibrated bounds of an method_run on the examples.

    Attributes:
        label: Name of the method, with J.
        task: Name of the task.
        protocol: Name of the protocol.
        lambda_hat: The scale applied.
        lower: (n, C, H, W) in [0, 1].
        upper: (n, C, H, W) in [0, 1].
    """

    label: str
    task: str
    protocol: str
    lambda_hat: float
    lower: FloatArray
    upper: FloatArray

    @property
    def size(self) -> FloatArray:
        """(n, H, W) interval size, mean over channels."""
        return np.asarray((self.upper - self.lower).mean(axis=1))

    def error(self, target: FloatArray) -> FloatArray:
        """(n, H, W) distance of the middle of the interval from the truth, mean over channels."""
        return np.asarray(np.abs((self.lower + self.upper) / 2 - target).mean(axis=1))

    def risk(self, examples: Examples) -> list[float]:
        """Share of the judged values of each example outside their interval."""
        missed = ((examples.target < self.lower) | (examples.target > self.upper)).mean(axis=1)
        return [float(share[mask].mean()) for share, mask in zip(missed, examples.mask, strict=True)]

    def mean_size(self, examples: Examples) -> list[float]:
        """Mean interval size of the judged pixels of each example."""
        return [float(size[mask].mean()) for size, mask in zip(self.size, examples.mask, strict=True)]


def load_examples(images: Path | str, n_examples: int, shown: str = "") -> Examples:
    """`n_examples` test images, evenly spread over the split: nobody picks them.

    Args:
        images: results/<run>/<task>/images/test.zarr.
        n_examples: Number of images, at most.
        shown: Regular expression, searched in the image ids: images without a match are not shown.
    Raises:
        DataError: If no image matches.
    """
    store = open_store(images)
    allowed = [row for row, image_id in enumerate(store.image_ids) if re.search(shown, image_id)]
    if not allowed:
        raise DataError(f"report.example_pattern = {shown!r}: matches none of the {len(store.image_ids)} test images")
    rows = tuple(allowed[k] for k in spread(len(allowed), n_examples))
    mask = _rows(store, "mask", rows).max(axis=1) > 0
    return Examples(rows, store.image_ids, _rows(store, "target", rows), _rows(store, "condition", rows), mask)


def load_bounds(method_run: Path | str, examples: Examples) -> Bounds:
    """Bounds of an method_run on the examples, scaled by its lambda_hat and clamped.

    Args:
        method_run: results/<run>/<task>/<method_run>/<protocol>.
        examples: The examples.
    Raises:
        StoreError: If the bounds are of other images.
    """
    files = ResultFolder(Path(method_run))
    store = open_store(files.bounds("test"))
    if store.image_ids != examples.image_ids:
        raise StoreError(f"{store.path}: holds the bounds of other images; rerun the rule that makes it")
    calibration, metrics = read_calibration(files.calibration), read_json(files.metrics)
    lower, upper = calibration.apply(*(_rows(store, name, examples.rows) for name in ("lower", "upper")))
    return Bounds(
        method_label(metrics["method"], metrics["n_variants"]), metrics["task"], metrics["protocol"],
        calibration.lambda_hat, lower, upper,
    )  # fmt: skip


def spread(n_images: int, n_examples: int) -> tuple[int, ...]:
    """At most `n_examples` places, evenly spread over range(n_images), each in the middle of its share."""
    n_shown = min(n_images, n_examples)
    return tuple((2 * k + 1) * n_images // (2 * n_shown) for k in range(n_shown))


def shorten(name: str, length: int = 16) -> str:
    """The end of a long name, which differs more between images than its beginning."""
    return name if len(name) <= length else "…" + name[1 - length :]


def common_scale(judged: Sequence[FloatArray]) -> Normalize:
    """Colour scale from 0 to the largest judged value, outliers aside; arrays of any shape."""
    values = np.concatenate([array.reshape(-1) for array in judged])
    return Normalize(0, max(float(np.quantile(values, 0.995)), 1e-6), clip=True)


def show_image(axes: Axes, image: FloatArray, mask: npt.NDArray[np.bool_] | None = None) -> None:
    """Draw a (C, H, W) image; pixels outside the mask are faded."""
    pixels = np.clip(image.transpose(1, 2, 0), 0, 1)
    if pixels.shape[2] != 3:
        pixels = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    _show(axes, pixels if mask is None else _faded(pixels, mask))


def show_heat(axes: Axes, values: FloatArray, scale: Normalize, context: FloatArray, mask: Any) -> None:
    """Draw (H, W) values as a heat map where the mask is True, and the faded (C, H, W) context in grey elsewhere."""
    grey = np.clip(context.mean(axis=0), 0, 1)[..., None].repeat(3, axis=2)
    colours = colormaps[HEAT_MAP](scale(values))[..., :3]
    _show(axes, np.where(mask[..., None], colours, _faded(grey, mask)))


def heat_bar(figure: Figure, axes: Axes, scale: Normalize, label: str) -> None:
    """Draw the colour scale of heat maps, from left to right."""
    bar = figure.colorbar(ScalarMappable(scale, HEAT_MAP), cax=axes, orientation="horizontal")
    bar.set_label(label, size=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(3)
    bar.update_ticks()
    axes.grid(False)


def _show(axes: Axes, pixels: FloatArray) -> None:
    axes.imshow(pixels, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _faded(pixels: FloatArray, mask: npt.NDArray[np.bool_]) -> FloatArray:
    return np.where(mask[..., None], pixels, pixels * (1 - CONTEXT_FADE) + CONTEXT_FADE)


def _rows(store: SealedStore, name: str, rows: Sequence[int]) -> FloatArray:
    return np.concatenate([read_array(store[name], slice(row, row + 1)) for row in rows])
