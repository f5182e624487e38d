"""How often the risk was violated when calibration sets were drawn again and again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from conffusion.methods.protocols import COMPARISON
from conffusion.methods.registry import METHODS
from conffusion.report.figures.style import (
    BLUE,
    GREEN,
    LIMIT,
    ORANGE,
    PURPLE,
    SKY,
    facets,
    limit_line,
    saved_figure,
)
from conffusion.report.results import protocol_rank, read_csv, sampled_label, task_label

_SERIES = ["protocol", "bound", "family"]
_COLOURS = (BLUE, ORANGE, PURPLE, GREEN, SKY)
_MARKERS = ("o", "s", "D", "^", "v")


def plot_validity(validity_csv: Path | str, output: Path | str, *, delta: float, n_variants: int) -> None:
    """Draw the violation rate of every method: a panel per task (columns) and calibration set size (rows).

    Error bars: two standard errors. Series differ in protocol, bound and set family.

    Args:
        validity_csv: results/<run>/tables/validity.csv.
        output: PNG or PDF file to write; both are written.
        delta: Error level, drawn as a line.
        n_variants: J of the run, written beside DM_SB.
    """
    table = read_csv(validity_csv)
    table = table[table["protocol"] != COMPARISON]
    series = _series(table)
    methods = sorted(table["method"].unique(), key=lambda name: list(METHODS).index(name) if name in METHODS else 99)
    tasks = list(dict.fromkeys(table["task"]))
    sizes = _size_panels(table)
    height = 1.6 + len(sizes) * (0.7 + 0.42 * len(methods))
    with saved_figure(output, 1.6 + 4.2 * len(tasks), height) as figure:
        figure.suptitle("How often the risk exceeds α when the calibration set is drawn again", x=0.01, ha="left")
        for line, name in zip(facets(figure, len(sizes), len(tasks), sharey=True, sharex=True), sizes, strict=True):
            for panel, task in zip(line, tasks, strict=True):
                _draw_panel(panel, table[(table["task"] == task) & table.index.isin(sizes[name])], methods, series)
                limit_line(panel, delta, vertical=True)
                panel.set_title(f"{task_label(task)}{name}")
            line[0].set_yticks(range(len(methods)), [sampled_label(method, n_variants) for method in methods])
            line[0].set_ylim(len(methods) - 0.5, -0.5)
        for panel in line:
            panel.set_xlabel("violation rate (share of draws)")
        figure.legend(handles=_handles(series, delta), loc="outside lower left", ncols=2)


def _series(table: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """Every combination of protocol, bound and family, the guaranteed ones first, with its name in the legend."""
    combinations = list(dict.fromkeys(table[_SERIES].itertuples(index=False, name=None)))
    several_families = table["family"].nunique() > 1
    return {
        one: f"{one[0]} ({one[1]}{f', {one[2]}' if several_families else ''})"
        for one in sorted(combinations, key=lambda one: protocol_rank(one[0]))
    }


def _size_panels(table: pd.DataFrame) -> dict[str, pd.Index]:
    """Rows of the table in each row of panels: one for each n, if a series was drawn at several n."""
    places = table.groupby(["task", "method", *_SERIES], sort=False)["n"].rank(method="dense")
    if places.max() == 1:
        return {"": table.index}
    return {
        ", n = " + " or ".join(f"{n:,}" for n in sorted(rows["n"].unique())): rows.index
        for _, rows in table.groupby(places)
    }


def _draw_panel(axes: Axes, rows: pd.DataFrame, methods: Sequence[str], series: dict[tuple[str, ...], str]) -> None:
    for place, one in enumerate(series):
        chosen = rows[(rows[_SERIES] == list(one)).all(axis=1)]
        offset = (place - (len(series) - 1) / 2) * 0.6 / max(len(series), 1)
        heights = [methods.index(method) + offset for method in chosen["method"]]
        axes.errorbar(
            chosen["violation_rate"], heights, xerr=2 * chosen["standard_error"], linestyle="none", elinewidth=1.2,
            capsize=2, markersize=6, markeredgecolor="white", **_look(place),
        )  # fmt: skip
    axes.set_xlim(left=-0.01)
    axes.grid(axis="y", visible=False)


def _look(place: int) -> dict[str, Any]:
    """Colour and marker of a series."""
    return {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}


def _handles(series: dict[tuple[str, ...], str], delta: float) -> list[Line2D]:
    marks = [Line2D([], [], linestyle="none", label=name, **_look(k)) for k, name in enumerate(series.values())]
    return [*marks, Line2D([], [], color=LIMIT, linewidth=1.3, linestyle=(0, (5, 2)), label=f"allowed: δ = {delta:g}")]
