"""Contact sheet of what the priors have learned."""

from pathlib import Path

import numpy as np

from conffusion.core.arrays import FloatArray
from conffusion.report.figures.style import saved_figure

_CELL = 0.55  # inches
_READING = {
    True: "columns: truth, what the network is shown, restorations drawn by it",
    False: "rows: the source photographs as classes; columns: images drawn by the network",
}


def plot_prior_samples(samples: Path | str, output: Path | str) -> None:
    """Draw the samples of every prior below one another.

    Args:
        samples: .npz file with an array (rows, columns, C, H, W) in [0, 1] for each prior.
        output: PNG or PDF file to write; both are written.
    """
    with np.load(samples) as arrays:
        sheets = {name: _sheet(arrays[name]) for name in arrays.files}
        shapes = {name: arrays[name].shape[:2] for name in arrays.files}
    heights = [shape[0] * _CELL for shape in shapes.values()]
    width = max(shape[1] for shape in shapes.values()) * _CELL
    with saved_figure(output, width + 0.4, sum(heights) + 0.6 * len(sheets)) as figure:
        panels = figure.subplots(len(sheets), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, (name, sheet) in zip(panels, sheets.items(), strict=True):
            panel.imshow(sheet.transpose(1, 2, 0), interpolation="nearest")
            panel.set_title(f"{name}: {_READING['faces' in name]}")
            panel.set_axis_off()


def _sheet(samples: FloatArray) -> FloatArray:
    """(rows, columns, C, H, W) images as one (C, rows * H, columns * W) picture."""
    rows, columns, channels, height, width = samples.shape
    joined = samples.transpose(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)
    return np.asarray(joined.clip(0, 1))
