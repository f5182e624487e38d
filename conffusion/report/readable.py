"""Result tables as people read them: short headings, rounded numbers, no columns for machines."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from conffusion.methods.registry import METHODS
from conffusion.report.results import N_STRATA, method_label, task_label

Format: TypeAlias = Callable[[Any], str]
MISSING = "–"
_UNITS = {"image": "an image", "image_channel": "one channel of an image", "pixel": "a pixel"}
_FIRST = ("rule", "task", "protocol", "method")


@dataclass(frozen=True)
class Column:
    """How a column of a CSV file is shown.

    Attributes:
        heading: Short name with the unit.
        format: Value to text.
        numeric: Whether it is aligned to the right.
    """

    heading: str
    format: Format
    numeric: bool = True


def decimals(n: int) -> Format:
    """Format with `n` decimals and a true minus sign."""
    return lambda value: f"{value:.{n}f}".replace("-", "−")


def significant(n: int) -> Format:
    """Format with `n` significant digits, without an exponent where that is readable."""

    def text(value: float) -> str:
        if value == 0 or not 1e-4 <= abs(value) < 1e6:
            return f"{value:.{n}g}".replace("-", "−")
        return decimals(max(0, n - 1 - math.floor(math.log10(abs(value)))))(value)

    return text


def integer(value: float) -> str:
    """Whole number with thin spaces between thousands."""
    return f"{round(value):,}".replace(",", "\u202f")


def percent(value: float) -> str:
    """Signed percentage of a relative difference."""
    return f"{100 * value:+.1f} %".replace("-", "−")


def times(value: float) -> str:
    """A ratio."""
    return f"{significant(3)(value)} ×"


def duration(seconds: float) -> str:
    """Seconds with a unit that suits them."""
    if 0 < seconds < 1:
        return f"{significant(2)(1000 * seconds)} ms"
    return f"{significant(2)(seconds)} s" if seconds < 120 else f"{significant(2)(seconds / 60)} min"


COLUMNS: Mapping[str, Column] = {
    "task": Column("Task", task_label, numeric=False),
    "protocol": Column("Protocol", str, numeric=False),
    "method": Column("Method", method_label, numeric=False),
    "rule": Column("Rule", str, numeric=False),
    "bound": Column("Bound", str, numeric=False),
    "family": Column("Set family", str, numeric=False),
    "solver": Column("Solver", str, numeric=False),
    "n_steps": Column("T", integer),
    "n_variants": Column("J", significant(3)),
    "precision": Column("Early stop at", significant(2)),
    "interval_size": Column("Size at risk α", decimals(4)),
    "size_ratio": Column("Size / reference", decimals(3)),
    "size_ratio_interval": Column("95 % interval", str),
    "crps": Column("CRPS", decimals(4)),
    "crps_ratio": Column("CRPS / reference", decimals(3)),
    "risk": Column("Risk", decimals(3)),
    "risk_sd": Column("SD of risk", decimals(4)),
    "interval_size_mean": Column("Mean size", decimals(4)),
    "interval_size_sd": Column("SD of size", decimals(4)),
    "interval_size_median": Column("Median size", decimals(4)),
    "stratified_risk": Column("Risk by size quartile, pixels", str),
    "stratified_risk_official": Column("Risk by size quartile, official units", str),
    "size_relative_to_g_conffusion": Column("Size against G-Conffusion", percent),
    "lambda_hat": Column("λ̂", decimals(3)),
    "n_bound": Column("n of the bound", integer),
    "n": Column("n", integer),
    "n_draws": Column("Draws", integer),
    "violation_rate": Column("Violation rate", decimals(3)),
    "standard_error": Column("Standard error", decimals(3)),
    "infeasible_rate": Column("Infeasible rate", decimals(3)),
    "forward_passes_per_image": Column("Passes per image", integer),
    "seconds_per_image": Column("Time per image", duration),
    "images_per_second": Column("Images per second", significant(3)),
    "fraction_crossed": Column("Crossed pixels", lambda share: f"{significant(2)(100 * share)} %"),
    "replicates": Column("Runs", integer),
    "jobs": Column("Jobs", integer),
    "images": Column("Images", integer),
    "forward_passes": Column("Forward passes", integer),
    "wall_seconds": Column("Wall time, sum", duration),
    "longest_seconds": Column("Longest job", duration),
    "cpu_seconds": Column("CPU time, sum", duration),
    "gpu_seconds": Column("GPU time", duration),
    "max_memory_mb": Column("Peak memory, MB", integer),
}


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Text for people: the columns of `COLUMNS` that the table has, in the table's order after those that name a row.

    J is put beside the method, the four stratified risks become one cell, and spreads over replicates are left out
    where there is one run.
    """
    table = _join_strata(_label_methods(table)).dropna(axis="columns", how="all")
    names = [*(name for name in _FIRST if name in table), *(name for name in table.columns if name not in _FIRST)]
    shown = [name for name in names if name in COLUMNS]
    if "replicates" in shown and (table["replicates"] == 1).all():
        shown.remove("replicates")
    return pd.DataFrame(
        {COLUMNS[name].heading: [_cell(value, COLUMNS[name].format) for value in table[name]] for name in shown}
    )


def with_variants(table: pd.DataFrame, n_variants: int) -> pd.DataFrame:
    """The table with a column `n_variants` for sampled methods, where it names methods without saying J."""
    if "method" not in table or "n_variants" in table:
        return table
    sampled = [name in METHODS and METHODS[name].is_sampled for name in table["method"]]
    return table.assign(n_variants=[n_variants if one else None for one in sampled])


def numeric_headings(table: pd.DataFrame) -> set[str]:
    """Headings of a readable table whose cells are aligned to the right."""
    return {column.heading for column in COLUMNS.values() if column.numeric} & set(table.columns)


def note(table: pd.DataFrame) -> str:
    """What one must know to read the table; empty if nothing."""
    return " ".join(text for wanted, make in _NOTES.items() if wanted in table for text in [make(table)] if text)


def _size_note(table: pd.DataFrame) -> str:
    return "Sizes in units of the [0, 1] pixel range."


def _strata_note(table: pd.DataFrame) -> str:
    units = " or ".join(_UNITS.get(unit, str(unit)) for unit in table["official_unit"].dropna().unique())
    return f"Quartiles from narrow to wide intervals; the official unit is {units}."


def _count_note(table: pd.DataFrame) -> str:
    counts = [" or ".join(integer(n) for n in sorted(table[name].unique())) for name in ("n_calibration", "n_test")]
    return f"{counts[0]} calibration images, {counts[1]} test images."


def _variants_note(table: pd.DataFrame) -> str:
    return "J: variants sampled per image." if table["n_variants"].notna().any() else ""


def _cost_note(table: pd.DataFrame) -> str:
    wall, cpu, gpu = (duration(table[name].sum()) for name in ("wall_seconds", "cpu_seconds", "gpu_seconds"))
    unknown = table["gpu_seconds"].isna()
    gpus = "an unknown GPU time" if unknown.all() else f"{'at least ' if unknown.any() else ''}{gpu} of GPU time"
    return (
        f"In all {integer(table['jobs'].sum())} jobs, {wall} of wall time, {cpu} of CPU time and {gpus}. Images per "
        "second count the start-up of the jobs, the time per image does not."
    )


_NOTES: Mapping[str, Callable[[pd.DataFrame], str]] = {
    "interval_size_mean": _size_note,
    "official_unit": _strata_note,
    "n_calibration": _count_note,
    "n_variants": _variants_note,
    "gpu_seconds": _cost_note,
}


def _label_methods(table: pd.DataFrame) -> pd.DataFrame:
    if not {"method", "n_variants"} <= set(table.columns):
        return table
    labels = [method_label(*pair) for pair in zip(table["method"], table["n_variants"], strict=True)]
    return table.assign(method=labels).drop(columns="n_variants")


def _join_strata(table: pd.DataFrame) -> pd.DataFrame:
    """The four columns `stratified_risk_k` as one text, in the place of the first; likewise the official ones."""
    for name in ("stratified_risk", "stratified_risk_official"):
        parts = [f"{name}_{k}" for k in range(1, N_STRATA + 1)]
        if set(parts) <= set(table.columns):
            cells = [" / ".join(_cell(value, decimals(3)) for value in row) for row in table[parts].to_numpy()]
            table = table.assign(**{parts[0]: cells}).rename(columns={parts[0]: name}).drop(columns=parts[1:])
    return table


def _cell(value: Any, text: Format) -> str:
    return MISSING if value is None or (not isinstance(value, str) and pd.isna(value)) else text(value)
