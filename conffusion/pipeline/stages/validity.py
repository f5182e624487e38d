"""How often the promise is broken when calibration sets are drawn again and again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from conffusion.calibration.families import Family
from conffusion.calibration.rules import RULES
from conffusion.core.choices import PLAIN_FAMILIES
from conffusion.core.progress import Progress
from conffusion.evaluation.validity import LossCurves, assess_validity
from conffusion.methods.protocols import COMPARISON
from conffusion.pipeline.settings import ValidityStage
from conffusion.pipeline.stages.calibration import matching_stores
from conffusion.pipeline.stages.evaluation import pool_curves
from conffusion.store import atomic_path, read_json


@dataclass(frozen=True)
class ValidityFiles:
    """What the assessment of one method reads and writes.

    Attributes:
        calibrations: By protocol, calibration.json.
        pools: By protocol, loss curves on the pool of calibration and test images.
        candidates: Folder of the loss curves of all stored checkpoints; None for a method without checkpoints.
        compared: (bounds, images) of the pool under the guaranteed protocol, on which every bound and family is
            compared; empty to leave that out.
        splits: splits.csv.
        output: CSV to write.
    """

    calibrations: Mapping[str, Path]
    pools: Mapping[str, Path]
    candidates: Path | None
    compared: Sequence[tuple[Path, Path]]
    splits: Path
    output: Path


@dataclass(frozen=True)
class _Series:
    """One combination that is drawn at every size: loss curves, and how lambda_hat is found on a drawn set."""

    protocol: str
    family: str
    curves: Sequence[LossCurves]
    ucb: Any
    unit: Any
    reselect: bool = False

    @property
    def bound(self) -> str:
        label = f"{self.ucb}, n = {self.unit}s"
        return f"{label}, checkpoint reselected" if self.reselect else label


def assess_method_validity(
    task: str,
    method: str,
    settings: ValidityStage,
    files: ValidityFiles,
) -> None:
    """Rows of validity.csv for one method.

    Checkpoints stay fixed; a further row of the paper's protocol selects anew among all stored ones in every draw. The
    quirks of the official code are not repeated here: what breaks the promise is the protocol itself. Rows of the
    protocol "comparison" apply every bound to the guaranteed bounds under every plain family and the chosen one.

    Args:
        task: Name of the task.
        method: Name of the method.
        settings: What is drawn, and what is guaranteed.
        files: What is read and written.
    """
    records = {name: read_json(path) for name, path in files.calibrations.items()}
    own_size = int(records["guaranteed"]["n_bound"])  # images, or groups where there are groups
    rows, sizes = [], settings.validity.calibration_sizes or [own_size]
    all_series = [*_protocols(records, files, settings.official_quirks), *_comparisons(records, files)]
    progress = Progress("drawing calibration sets", len(all_series) * len(sizes), unit="settings")
    for series in all_series:
        for n in sizes:
            outcome = assess_validity(
                series.curves,
                n=n,
                n_draws=settings.validity.n_draws,
                alpha=settings.calibration.alpha,
                delta=settings.calibration.delta,
                ucb=series.ucb,
                unit=series.unit,
                seed=settings.seed,
                reselect=series.reselect,
            )
            rows.append(
                {
                    "task": task,
                    "method": method,
                    "protocol": series.protocol,
                    "bound": series.bound,
                    "family": series.family,
                    "n": n,
                    "n_draws": settings.validity.n_draws,
                    "violation_rate": outcome.violation_rate,
                    "standard_error": outcome.standard_error,
                    "infeasible_rate": outcome.infeasible_rate,
                    "interval_size_mean": outcome.interval_size_mean,
                }
            )
            progress.update()
    with atomic_path(files.output) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def gather_rows(parts: Sequence[str | Path], output: str | Path) -> None:
    """Join CSV files with the same columns."""
    with atomic_path(output) as temporary:
        pd.concat([pd.read_csv(part) for part in parts]).to_csv(temporary, index=False)


def _protocols(records: Mapping[str, Any], files: ValidityFiles, official_quirks: bool) -> Iterator[_Series]:
    """Every protocol as the run applies it, and the paper's with its selection of a checkpoint."""
    curves_of = dict(files.pools)
    if official_quirks and files.candidates is not None:
        step = int(records["paper"]["checkpoint_step"])
        curves_of["paper"] = files.candidates / f"step-{step:07d}.npz"
    for name, path in curves_of.items():
        record = records[name]
        yield _Series(name, record["scaling"], [LossCurves.load(path)], record["ucb"], record["unit"])
    if files.candidates is not None:
        candidates = [LossCurves.load(path) for path in sorted(files.candidates.glob("*.npz"))]
        record = records["paper"]
        yield _Series("paper", record["scaling"], candidates, record["ucb"], record["unit"], reselect=True)


def _comparisons(records: Mapping[str, Any], files: ValidityFiles) -> Iterator[_Series]:
    """Every bound, and the official count of pixels, under every plain family and the chosen one."""
    if not files.compared:
        return
    stores = [matching_stores(*pair) for pair in files.compared]
    unit = records["guaranteed"]["unit"]
    for family in (*PLAIN_FAMILIES, None):
        if family is None:
            family, curves = records["guaranteed"]["scaling"], LossCurves.load(files.pools["guaranteed"])
            if family in PLAIN_FAMILIES:
                continue
        else:
            curves = pool_curves(stores, files.splits, Family(family))
        for ucb in RULES:
            yield _Series(COMPARISON, family, [curves], ucb, "pixel" if ucb == "official" else unit)
