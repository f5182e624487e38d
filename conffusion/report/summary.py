"""The end of a run in the terminal: the results in a few lines, and where to look next."""

import sys
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from conffusion.config import load_config
from conffusion.core.layout import RunLayout
from conffusion.methods.protocols import COMPARISON
from conffusion.report.html import violation_counts
from conffusion.report.readable import COLUMNS, MISSING
from conffusion.report.results import protocol_rank, read_csv, task_label
from conffusion.report.verdicts import VERDICTS

_SHOWN = ("risk", "interval_size_mean")
_WIDTH = 16  # of the methods' names, so that tables of several tasks stand in line


def run_summary(run: str | Path) -> list[str]:
    """Lines with every method's risk and interval size, the verdicts on the paper's claims, and the next commands.

    Args:
        run: results/<run>.
    Returns:
        Nothing if the report has not been written.
    Raises:
        StoreError: If a table cannot be read.
        ConfigError: If the configuration cannot be read.
    """
    layout = RunLayout(Path(run))
    if not layout.report.is_file():
        return []
    config = load_config(layout.config)
    alpha, delta = config.calibration.alpha, config.calibration.delta
    lines = ["", f"Risk (at most {alpha:g} is asked for) and mean interval size on the test images"]
    for task in config.tasks:
        lines += ["", *_task_table(task, read_csv(layout.table(task)))]
    program = Path(sys.executable).with_name("conffusion")  # as it can be typed here
    command = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program.name
    return [
        *lines,
        "",
        *_verdicts(layout, delta),
        "",
        f"Report:           {layout.report}",
        f"Look at images:   {command} view {run} --open",
        f"Package a model:  {command} package {run}/<task>/<method> --output NAME.conffusion",
    ]


def _task_table(task: str, table: pd.DataFrame) -> list[str]:
    """A row for each method, with the columns of `guaranteed` first."""
    protocols = sorted(table["protocol"].unique(), key=protocol_rank)
    rows = []
    for method in table["method"].unique():
        cells = [COLUMNS["method"].format(method)]
        for protocol in protocols:
            chosen = table[(table["method"] == method) & (table["protocol"] == protocol)]
            cells += [COLUMNS[name].format(chosen[name].iloc[0]) if len(chosen) else MISSING for name in _SHOWN]
        rows.append(cells)
    shown = [f"{COLUMNS[name].heading.lower()}\n{protocol}" for protocol in protocols for name in _SHOWN]
    headings, aligned = [f"{task_label(task):<{_WIDTH}}", *shown], ["left", *["right"] * len(shown)]
    return tabulate(rows, headings, disable_numparse=True, colalign=aligned).splitlines()


def _verdicts(layout: RunLayout, delta: float) -> list[str]:
    """Counts of the verdicts on the paper's claims and on the guarantee, by protocol, where there are such tables."""
    lines = []
    if layout.table("claims").is_file():
        claims = read_csv(layout.table("claims"))
        for protocol in sorted(claims["protocol"].unique(), key=protocol_rank):
            counts = claims.loc[claims["protocol"] == protocol, "verdict"].value_counts()
            said = ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in VERDICTS)
            lines.append(f"Claims of the paper, protocol {protocol}: {said}")
    if layout.table("validity").is_file():
        validity = read_csv(layout.table("validity"))
        for protocol, count in violation_counts(validity[validity["protocol"] != COMPARISON], delta).items():
            lines.append(
                f"Guarantee, protocol {protocol}: risk violated no more often than delta = {delta:g} in "
                f"{count['controlled']} of {count['rows']} rows of validity.csv"
            )
    return lines
