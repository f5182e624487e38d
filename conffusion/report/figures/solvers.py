"""Calibrated size against forward passes: solvers, numbers of steps and variants, early stops."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from conffusion.report.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    facets,
    saved_figure,
)
from conffusion.report.results import task_label

_HIGHEST = 1.3  # size shown, in units of the reference's
_COST = "forward_passes_per_image"
_SOLVERS: Mapping[str, tuple[str, str, str]] = {
    "dpmpp_2m_sde": ("SDE-DPM-Solver++(2M)", BLUE, "o"),
    "dpmpp_2m": ("DPM-Solver++(2M)", ORANGE, "s"),
    "ancestral": ("ancestral", BLACK, "D"),
}


def plot_solvers(
    table: pd.DataFrame,
    choice: Mapping[str, Any],
    reference: Mapping[str, Any],
    output: Path | str,
    *,
    tolerance: float,
) -> None:
    """One panel per task: size at risk alpha, against the reference's, over forward passes per image.

    Args:
        table: Rows of `conffusion.pipeline.stages.solver_study.measure_solvers`.
        choice: The chosen solver, n_steps and n_variants, ringed.
        reference: Setting that is 1.
        output: PNG or PDF file to write; both are written.
        tolerance: Share above the reference that is good enough, shaded.
    """
    tasks = list(dict.fromkeys(table["task"]))
    with saved_figure(output, 1.0 + 5.2 * len(tasks), 4.6) as figure:
        figure.suptitle("What a forward pass buys: calibrated size against cost", x=0.01, ha="left")
        panels = facets(figure, 1, len(tasks), sharey=True)[0]
        for axes, task in zip(panels, tasks, strict=True):
            _draw(axes, table[table["task"] == task], choice, reference)
            axes.axhspan(1 - tolerance, 1 + tolerance, color=GREEN, alpha=0.15, linewidth=0, zorder=0)
            axes.set_title(task_label(task))
            axes.set_xscale("log")
            axes.set_ylim(top=min(axes.get_ylim()[1], _HIGHEST))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.set_xlabel("forward passes per image, T x J")
        panels[0].set_ylabel(f"size at risk α / that of {reference['n_steps']} steps")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)


def _draw(axes: Axes, rows: pd.DataFrame, choice: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
    fixed = rows[rows["precision"].isna()]
    own = rows[(rows["solver"] == choice["solver"]) & (rows["n_steps"] == choice["n_steps"])]
    early, many = own[own["precision"].notna()], own[own["precision"].isna()].sort_values("n_variants")
    for solver in [*_SOLVERS, *sorted(set(rows["solver"]) - set(_SOLVERS))]:
        label, colour, marker = _SOLVERS.get(solver, (solver, PURPLE, "v"))
        line = fixed[(fixed["solver"] == solver) & (fixed["n_variants"] == reference["n_variants"])]
        line = line.sort_values(_COST)
        error = [line["size_ratio"] - line["ci_low"], line["ci_high"] - line["size_ratio"]]
        axes.errorbar(
            line[_COST], line["size_ratio"], error, color=colour, marker=marker, markersize=4, linewidth=1.3,
            elinewidth=0.8, label=f"{label}, J = {reference['n_variants']}",
        )  # fmt: skip
    axes.plot(
        many[_COST], many["size_ratio"], color=SKY, marker=".", linewidth=1.2,
        label=f"T = {choice['n_steps']}, J from {many['n_variants'].min():.0f} to {many['n_variants'].max():.0f}",
    )  # fmt: skip
    if len(early):
        early = early.sort_values(_COST)
        axes.plot(
            early[_COST], early["size_ratio"], color=GREY, marker="x", linestyle=":", linewidth=1.0,
            label=f"T = {choice['n_steps']}, early stops",
        )  # fmt: skip
    chosen = fixed
    for name in ("solver", "n_steps", "n_variants"):
        chosen = chosen[chosen[name] == choice[name]]
    axes.plot(
        chosen[_COST], chosen["size_ratio"], marker="o", markersize=13, markerfacecolor="none",
        color=VERMILION, linestyle="none", label="chosen",
    )  # fmt: skip
