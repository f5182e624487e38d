"""The tables of a run: one per task, and the comparison of pretrainings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from conffusion.errors import DataError
from conffusion.report.results import N_STRATA, MethodResult, distinct, load_results, protocol_rank
from conffusion.report.writing import write_table

PRETRAININGS = ("g_conffusion", "resnext", "resnest")
_REFERENCE = "g_conffusion"


def write_task_table(folders: Sequence[Path | str], output_csv: Path | str) -> None:
    """Write the table of a task: a row per method and protocol, means over replicates; also as .md and .tex.

    Columns: method, protocol, risk, interval_size_mean, interval_size_median, stratified_risk_1 .. 4 (pixels in
    quartiles of interval size, from narrow to wide), stratified_risk_official_1 .. 4 (the official code's units, named
    in official_unit), lambda_hat, n_calibration, n_bound, n_test, n_variants, forward_passes_per_image,
    seconds_per_image, n_crossed and fraction_crossed (crossing bounds), replicates, and the standard deviations
    risk_sd and interval_size_sd over replicates (empty where there is one).

    Args:
        folders: results/<run>/<task>/<method_run>/<protocol> of one task.
        output_csv: CSV file to write.
    Raises:
        DataError: If the folders belong to several tasks.
    """
    results = load_results(folders)
    if len(distinct(results, "task")) > 1:
        raise DataError(f"{output_csv}: results of several tasks were given: {', '.join(distinct(results, 'task'))}")
    write_table(_by_protocol(method_rows(results)).drop(columns="task"), output_csv)


def write_pretraining_table(folders: Sequence[Path | str], output_csv: Path | str) -> None:
    """Write G-Conffusion beside ResNeXt and ResNeSt, for every task and protocol; also as .md and .tex.

    Columns: task, protocol, method, risk, interval_size_mean, interval_size_median, size_relative_to_g_conffusion
    (mean size over that of G-Conffusion, minus 1; empty without G-Conffusion), lambda_hat, replicates.

    Args:
        folders: results/<run>/<task>/<method_run>/<protocol>; other methods among them are left out.
        output_csv: CSV file to write.
    Raises:
        DataError: If none of the three methods is among them.
    """
    results = [result for result in load_results(folders) if result.method in PRETRAININGS]
    if not results:
        raise DataError(f"{output_csv}: none of the methods {', '.join(PRETRAININGS)} is in this run")
    table = method_rows(results)
    rows = table.set_index(["task", "protocol", "method"])["interval_size_mean"]
    reference = [rows.get((row.task, row.protocol, _REFERENCE), float("nan")) for row in table.itertuples()]
    table["size_relative_to_g_conffusion"] = table["interval_size_mean"] / reference - 1
    wanted = ["task", "protocol", "method", "risk", "interval_size_mean", "interval_size_median",
              "size_relative_to_g_conffusion", "lambda_hat", "replicates"]  # fmt: skip
    write_table(_by_protocol(table)[wanted], output_csv)


def method_rows(results: Sequence[MethodResult]) -> pd.DataFrame:
    """One row per task, method and protocol: means over replicates, in the order of `results`."""
    keys = ["task", "method", "protocol"]
    rows = pd.DataFrame([_row(result) for result in results])
    groups = rows.groupby([*keys, "official_unit"], sort=False)
    table = groups.mean(numeric_only=True)
    table["replicates"] = groups.size()
    table["risk_sd"], table["interval_size_sd"] = groups["risk"].std(), groups["interval_size_mean"].std()
    whole = ["n_calibration", "n_bound", "n_test", "n_variants"]
    return table.reset_index().astype(dict.fromkeys(whole, "Int64"))[[*rows.columns, *table.columns[-3:]]]


def _row(result: MethodResult) -> dict[str, Any]:
    metrics, calibration = result.metrics, result.calibration
    strata = {
        f"{name}_{k}": metrics[name][k - 1]
        for name in ("stratified_risk", "stratified_risk_official")
        for k in range(1, N_STRATA + 1)
    }
    return {
        "task": result.task, "method": result.method, "protocol": result.protocol, "risk": metrics["risk"],
        "interval_size_mean": metrics["interval_size_mean"], "interval_size_median": metrics["interval_size_median"],
        **strata, "official_unit": metrics["official_unit"], "lambda_hat": calibration.lambda_hat,
        "n_calibration": calibration.n_images, "n_bound": calibration.n, "n_test": metrics["n_test"],
        "n_variants": _number(metrics["n_variants"]), "forward_passes_per_image": metrics["forward_passes_per_image"],
        "seconds_per_image": metrics["seconds_per_image"], "n_crossed": metrics["n_crossed"],
        "fraction_crossed": metrics["fraction_crossed"],
    }  # fmt: skip


def _by_protocol(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each task together, those of each protocol together within it, methods in their order."""
    tasks = {name: place for place, name in enumerate(dict.fromkeys(table["task"]))}
    places = [(tasks[row.task], protocol_rank(row.protocol)) for row in table.itertuples()]
    return table.iloc[sorted(range(len(table)), key=places.__getitem__)]


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
