"""Where in the image intervals miss: risk by position."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from conffusion.core.layout import ResultFolder
from conffusion.errors import StoreError
from conffusion.report.figures.style import facets, saved_figure
from conffusion.report.results import MethodResult, distinct, load_results, result_label, select, task_label

_COLOURS = "RdBu_r"  # white where the risk is alpha
_NOT_JUDGED = "#d9d9d9"


def plot_position_risk(folders: Sequence[Path | str], output: Path | str, *, alpha: float) -> None:
    """Maps of the test risk over the image, one panel per task (rows) and method (columns).

    Args:
        folders: results/<run>/<task>/<method_run>/<protocol> of one protocol, with positions.npz; only the first
            replicate of each method is drawn.
        output: PNG or PDF file to write; both are written.
        alpha: Risk level, the middle of the colour scale, which ends at twice alpha.
    Raises:
        StoreError: If a positions.npz is missing or damaged.
    """
    results = select(load_results(folders), replicate=0)
    tasks, methods = distinct(results, "task"), distinct(results, "method")
    with saved_figure(output, max(6.0, 1.4 + 3.0 * len(methods)), 1.1 + 3.0 * len(tasks)) as figure:
        figure.suptitle("Where in the image intervals miss", x=0.01, ha="left")
        grid = facets(figure, len(tasks), len(methods))
        for row, task in zip(grid, tasks, strict=True):
            for panel, method in zip(row, methods, strict=True):
                method_runs = select(results, task=task, method=method)
                panel.set_visible(bool(method_runs))
                for method_run in method_runs:
                    drawn = _draw(panel, method_run, alpha)
        bar = figure.colorbar(drawn, ax=[panel for row in grid for panel in row], extend="max", shrink=0.8)
        bar.set_label("test risk (share of pixels missed)")
        bar.ax.set_yticks([0, alpha, 2 * alpha], ["0", f"α = {alpha:g}", f"{2 * alpha:g}"])


def _draw(axes: Axes, method_run: MethodResult, alpha: float) -> AxesImage:
    axes.set_title(f"{task_label(method_run.task)}, {result_label(method_run)}")
    axes.set_facecolor(_NOT_JUDGED)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.imshow(_risk(ResultFolder(method_run.folder).positions), cmap=_COLOURS, vmin=0.0, vmax=2 * alpha)


def _risk(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file["risk"])
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise StoreError(
            f"{path}: not a file of risks by position ({error}); rerun the rule evaluate_method"
        ) from error
