"""Bounds of every method on the same test images."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from conffusion.errors import DataError
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
from conffusion.report.results import load_results, task_label

_ROWS = ("Lower bound", "Upper bound", "Interval size")
_CELL, _MARGIN = 1.2, 0.2  # inches


def plot_methods(
    images: Sequence[Path | str],
    method_runs: Sequence[Path | str],
    output: Path | str,
    *,
    n_examples: int = 2,
    shown: str = "",
) -> None:
    """Draw lower bound, upper bound and interval size of several methods side by side, for some test images.

    Only the first replicate of each method is shown.

    Args:
        images: Test images of every method run, results/<run>/<task>/images/test.zarr; the same, in one order, though
            some networks may see them at another size.
        method_runs: results/<run>/<task>/<method_run>/<protocol> of one task and protocol.
        output: PNG or PDF file to write; both are written.
        n_examples: Number of images, evenly spread over the test split.
        shown: Regular expression on the ids of the images that may be shown.
    Raises:
        DataError: If the method_runs belong to several tasks or protocols.
    """
    examples_of = {
        Path(method_run): load_examples(path, n_examples, shown)
        for path, method_run in zip(images, method_runs, strict=True)
    }
    results = [result for result in load_results(method_runs) if result.replicate == 0]
    if len({(result.task, result.protocol) for result in results}) != 1:
        raise DataError(f"{output}: needs the first replicates of one task and one protocol")
    drawn = [(load_bounds(result.folder, examples_of[result.folder]), examples_of[result.folder]) for result in results]
    methods, examples = [bounds for bounds, _ in drawn], drawn[0][1]
    grid = Grid(
        len(_ROWS) * len(examples.rows), len(methods), cell=_CELL, left=_CELL + 0.65, top=1.25,
        rows_per_block=len(_ROWS), block_gap=0.75,
    )  # fmt: skip
    with saved_figure(output, grid.width, grid.height, layout="none") as figure:
        grid.heading(
            figure,
            f"{task_label(methods[0].task)}: every method on the same images",
            f"protocol {methods[0].protocol}, calibrated bounds; images evenly spread over the test split",
        )
        scale = common_scale([method.size[own.mask] for method, own in drawn])
        for block in range(len(examples.rows)):
            _draw_block(figure, grid, block, drawn, scale)
        heat_bar(figure, grid.below(figure, 0, min(4, len(methods))), scale, f"interval size ({SIZE_UNIT})")


def _draw_block(
    figure: Figure, grid: Grid, block: int, drawn: Sequence[tuple[Bounds, Examples]], scale: Normalize
) -> None:
    """The rows of one test image; input and truth as the first method sees them."""
    first, examples = len(_ROWS) * block, drawn[0][1]
    for offset, (pictures, title) in enumerate(((examples.condition, "Input"), (examples.target, "Ground truth"))):
        centre = grid.row_centre(first) + offset * (_CELL + 0.3)
        panel = grid.box(figure, _MARGIN, centre - _CELL / 2, _CELL, _CELL)
        show_image(panel, pictures[block])
        panel.set_title(title, loc="center", size=9)
    for column, (method, examples) in enumerate(drawn):
        mask, target = examples.mask[block], examples.target[block]
        panels = [grid.panel(figure, first + offset, column) for offset in range(len(_ROWS))]
        show_image(panels[0], method.lower[block], mask)
        show_image(panels[1], method.upper[block], mask)
        show_heat(panels[2], method.size[block], scale, target, mask)
        size, risk = method.mean_size(examples)[block], method.risk(examples)[block]
        panels[0].set_title(
            f"{method.label}\nsize {size:.3f}\nrisk {risk:.3f}", loc="center", size=8.5, linespacing=1.35
        )
    for offset, name in enumerate(_ROWS):
        centre = grid.row_centre(first + offset)
        grid.write(figure, grid.left - 0.12, centre, name, rotation=90, ha="center", va="center", size=9)
