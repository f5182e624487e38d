"""Intervals of one method on some test images, as in figures 1, 2 and 4 of the paper."""

from pathlib import Path

from matplotlib.figure import Figure

from conffusion.report.figures.grid import Grid
from conffusion.report.figures.images import (
    Bounds,
    Examples,
    common_scale,
    heat_bar,
    load_bounds,
    load_examples,
    show_heat,
    show_image,
)
from conffusion.report.figures.style import SIZE_UNIT, saved_figure
from conffusion.report.results import task_label

_COLUMNS = ("Input", "Lower bound", "Upper bound", "Ground truth", "Error", "Interval size")
_ERROR, _SIZE = 4, 5


def plot_examples(
    images: Path | str, method_run: Path | str, output: Path | str, *, n_examples: int = 4, shown: str = ""
) -> None:
    """Draw input, calibrated bounds, truth, error and interval size of some test images.

    The images are evenly spread over the test split. Where a task judges some pixels only, the others are faded in
    every column but the input and the truth.

    Args:
        images: results/<run>/<task>/images/test.zarr.
        method_run: results/<run>/<task>/<method_run>/<protocol>.
        output: PNG or PDF file to write; both are written.
        n_examples: Number of rows.
        shown: Regular expression on the ids of the images that may be shown.
    """
    examples = load_examples(images, n_examples, shown)
    bounds = load_bounds(method_run, examples)
    grid = Grid(len(examples.rows), len(_COLUMNS))
    with saved_figure(output, grid.width, grid.height, layout="none") as figure:
        grid.heading(
            figure,
            f"{task_label(bounds.task)}: calibrated intervals of {bounds.label}",
            f"protocol {bounds.protocol}, λ̂ = {bounds.lambda_hat:.3f}; images evenly spread over the test split; "
            f"errors and sizes in {SIZE_UNIT}",
        )
        _draw(figure, grid, examples, bounds)


def _draw(figure: Figure, grid: Grid, examples: Examples, bounds: Bounds) -> None:
    errors, sizes = bounds.error(examples.target), bounds.size
    error_scale, size_scale = common_scale([errors[examples.mask]]), common_scale([sizes[examples.mask]])
    for row, mask in enumerate(examples.mask):
        panels = [grid.panel(figure, row, column) for column in range(grid.n_columns)]
        shown = (examples.condition, bounds.lower, bounds.upper, examples.target)
        for column, pictures in enumerate(shown):
            show_image(panels[column], pictures[row], mask if 0 < column < 3 else None)
        show_heat(panels[_ERROR], errors[row], error_scale, examples.target[row], mask)
        show_heat(panels[_SIZE], sizes[row], size_scale, examples.target[row], mask)
        for panel, title in zip(panels, _COLUMNS if row == 0 else (), strict=False):
            panel.set_title(title, loc="center")
    _label_rows(figure, grid, examples, bounds)
    heat_bar(figure, grid.below(figure, _ERROR), error_scale, "|middle − truth|")
    heat_bar(figure, grid.below(figure, _SIZE), size_scale, "upper − lower")


def _label_rows(figure: Figure, grid: Grid, examples: Examples, bounds: Bounds) -> None:
    numbers = zip(examples.names, bounds.mean_size(examples), bounds.risk(examples), strict=True)
    for row, (name, size, risk) in enumerate(numbers):
        text = f"{name}\nsize {size:.3f}\nrisk {risk:.3f}"
        grid.write(
            figure, grid.left - 0.1, grid.row_centre(row), text, ha="right", va="center", size=8.5, linespacing=1.5
        )
