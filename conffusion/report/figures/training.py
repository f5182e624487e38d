"""Loss curves, and how the checkpoints competed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from conffusion.errors import DataError
from conffusion.methods.registry import METHODS
from conffusion.report.figures.style import (
    GREY,
    PROTOCOL_COLOURS,
    PROTOCOL_MARKERS,
    SIZE_UNIT,
    facets,
    method_colour,
    saved_figure,
)
from conffusion.report.results import method_label, read_csv, task_label

_LOSSES = {
    "pinball": "pinball loss",
    "pinball_and_squared_error": "pinball + squared error",
    "squared_error": "squared error",
}
_RINGS = {"guaranteed": 11, "paper": 15}  # one around the other where both protocols choose the same


def plot_training(curves: Sequence[Path | str], output: Path | str) -> None:
    """Draw the fine-tuning loss of every method_run, and below it the interval size of its checkpoints.

    Losses have a scale of their own in each column, since methods minimise different ones; what the sharpening at the
    end minimises, the same for all, is dotted. Checkpoints are compared on the split of each protocol; the chosen one
    is ringed. Replicates share a column.

    Args:
        curves: results/<run>/<task>/<method_run>/training.csv of one task.
        output: PNG or PDF file to write; both are written.
    Raises:
        DataError: If the files belong to several tasks, or none is given.
    """
    files = [Path(curve) for curve in curves]
    tasks = {file.parent.parent.name for file in files}
    if len(tasks) != 1:
        raise DataError(f"{output}: needs training.csv of one task, got {len(tasks)} tasks")
    methods = _by_method(files)
    with saved_figure(output, max(5.0, 0.8 + 2.25 * len(methods)), 5.6) as figure:
        figure.suptitle(f"{task_label(tasks.pop())}: fine-tuning", x=0.01, ha="left")
        above, below = facets(figure, 2, len(methods), sharex="col")
        for (method, runs), losses, sizes in zip(methods.items(), above, below, strict=True):
            _draw_method(method, runs, losses, sizes)
        _share_limits(below)
        above[0].set_ylabel("loss")
        below[0].set_ylabel(f"interval size on validation\n({SIZE_UNIT})")
        handles = _handles(has_sharpening=any(_is_sharpening(read_csv(file)).any() for file in files))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _by_method(files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of every method, methods in their order, replicates in theirs."""
    methods: dict[str, list[Path]] = {}
    for file in sorted(files, key=lambda file: file.parent.name):
        method, _, replicate = file.parent.name.rpartition("-r")
        methods.setdefault(method if replicate.isdigit() else file.parent.name, []).append(file)
    order = list(METHODS)
    return dict(sorted(methods.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _draw_method(method: str, runs: Sequence[Path], losses: Axes, sizes: Axes) -> None:
    """Loss and competition of one method; further replicates are drawn fainter."""
    for run, file in enumerate(runs):
        table, opacity = read_csv(file), 1.0 if run == 0 else 0.35
        steps = table.dropna(subset="loss")
        sharpened = _is_sharpening(steps)
        style: dict[str, Any] = {"color": method_colour(method), "alpha": opacity}
        losses.plot(steps["step"][~sharpened], steps["loss"][~sharpened], **style)
        if sharpened.any():
            losses.plot(steps["step"][sharpened], steps["loss"][sharpened], linestyle=":", **style)
        for protocol, rows in table.dropna(subset="protocol").groupby("protocol"):
            _draw_validations(sizes, str(protocol), rows, opacity)
    kind = _LOSSES.get(str(METHODS[method].loss), "") if method in METHODS else ""
    losses.set_title(f"{method_label(method)}\n{kind}", size=9.5)
    losses.set_yscale("log")
    losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    losses.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    losses.yaxis.set_minor_formatter(NullFormatter())
    sizes.set_xlabel("step")
    sizes.locator_params(axis="x", nbins=4)


def _is_sharpening(table: pd.DataFrame) -> pd.Series:
    """Rows of the phase that minimises the width at the risk level; tables of runs without it do not name phases."""
    return table["phase"] == "sharpening" if "phase" in table else pd.Series(False, index=table.index)


def _draw_validations(axes: Axes, protocol: str, rows: pd.DataFrame, opacity: float) -> None:
    style: dict[str, Any] = {"color": PROTOCOL_COLOURS.get(protocol, GREY), "alpha": opacity}
    axes.plot(rows["step"], rows["interval_size"], marker=PROTOCOL_MARKERS.get(protocol, "x"), markersize=5, **style)
    finite = rows[rows["interval_size"] < float("inf")]
    if len(finite):
        best = finite.loc[finite["interval_size"].idxmin()]
        axes.plot([best["step"]], [best["interval_size"]], marker="o", markersize=_RINGS.get(protocol, 10),
                  markerfacecolor="none", markeredgewidth=1.5, clip_on=False, **style)  # fmt: skip


def _share_limits(panels: Sequence[Axes]) -> None:
    """The same limits in all panels, so that sizes can be compared across them."""
    low = min(panel.get_ylim()[0] for panel in panels)
    high = max(panel.get_ylim()[1] for panel in panels)
    for panel in panels:
        panel.set_ylim(low, high)
    for panel in panels[1:]:
        panel.tick_params(axis="y", labelleft=False)


def _handles(*, has_sharpening: bool) -> list[Line2D]:
    protocols = [
        Line2D([], [], color=PROTOCOL_COLOURS[name], marker=PROTOCOL_MARKERS[name], label=f"protocol {name}")
        for name in PROTOCOL_COLOURS
    ]
    ring = Line2D([], [], linestyle="none", marker="o", markersize=11, markerfacecolor="none", markeredgecolor=GREY,
                  markeredgewidth=1.5, label="chosen checkpoint")  # fmt: skip
    dotted = Line2D([], [], color=GREY, linestyle=":", label="sharpening (width + price x misses)")
    return [*protocols, ring, *([dotted] if has_sharpening else [])]
