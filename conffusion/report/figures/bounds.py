"""What every calibration bound and set family costs in width, and how often the risk is violated."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from conffusion.core.choices import PAPER_SCALING
from conffusion.methods.protocols import COMPARISON
from conffusion.report.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIMIT,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    facets,
    limit_line,
    saved_figure,
)
from conffusion.report.results import read_csv, sampled_label, task_label

_COLOURS = {
    "star": BLUE, "wsr": SKY, "hoeffding_bentkus": GREEN, "bentkus": PURPLE, "empirical_bernstein": ORANGE,
    "hoeffding": GREY, "clt": BLACK, "conformal_risk_control": "#8c564b", "official": VERMILION,
}  # fmt: skip


def plot_bounds(validity_csv: Path | str, output: Path | str, *, delta: float, n_variants: int) -> None:
    """Violation rate and mean interval size against the number of calibration units, for every bound and two families.

    A column per task and method, from the rows of the protocol "comparison"; solid lines for the family that the method
    was given on the selection split, dashed ones for the paper's.

    Args:
        validity_csv: results/<run>/tables/validity.csv.
        output: PNG or PDF file to write; both are written.
        delta: Error level, drawn as a line.
        n_variants: J of the run, written beside DM_SB.
    """
    table = read_csv(validity_csv)
    table = table[table["protocol"] == COMPARISON]
    columns = list(table.groupby(["task", "method"], sort=False))
    with saved_figure(output, 1.2 + 3.3 * max(1, len(columns)), 6.2) as figure:
        figure.suptitle("What bounds and set families cost, and what they keep", x=0.01, ha="left")
        top, bottom = facets(figure, 2, max(1, len(columns)), sharex=True)
        for upper, lower, ((task, method), rows) in zip(top, bottom, columns, strict=False):
            _draw(upper, rows, "violation_rate")
            limit_line(upper, delta)
            upper.set_title(f"{task_label(str(task))}, {sampled_label(str(method), n_variants)}")
            _draw(lower, rows, "interval_size_mean")
            lower.set_xlabel("calibration images or groups")
        top[0].set_ylabel("violation rate")
        bottom[0].set_ylabel("mean interval size")
        figure.legend(handles=_handles(table, delta), loc="outside lower left", ncols=4)


def _draw(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    for (bound, family), line in rows.groupby(["bound", "family"], sort=False):
        chosen = rows["family"].iloc[-1]  # the chosen family's rows come last
        if family not in (chosen, PAPER_SCALING):
            continue
        feasible = line[line["infeasible_rate"] < 1].sort_values("n")
        axes.plot(
            feasible["n"], feasible[column], marker="o", markersize=3, color=_colour(str(bound)),
            linestyle="-" if family == chosen else (0, (3, 2)), linewidth=1.2,
        )  # fmt: skip
    axes.set_xscale("log")
    ticks = sorted(rows["n"].unique())
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()


def _colour(bound: str) -> str:
    return _COLOURS.get(bound.partition(",")[0], BLACK)


def _handles(table: pd.DataFrame, delta: float) -> list[Line2D]:
    bounds = list(dict.fromkeys(table["bound"]))
    lines = [Line2D([], [], color=_colour(name), label=name) for name in bounds]
    lines.append(Line2D([], [], color=BLACK, label="family chosen on selection"))
    lines.append(Line2D([], [], color=BLACK, linestyle=(0, (3, 2)), label=f"{PAPER_SCALING} (paper)"))
    return [*lines, Line2D([], [], color=LIMIT, linewidth=1.3, linestyle=(0, (5, 2)), label=f"allowed: δ = {delta:g}")]
