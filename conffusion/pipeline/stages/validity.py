"""How often the guarantee fails when calibration sets are drawn again and again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from conffusion.calibration import CalibrationOptions, CalibrationRecord, Family
from conffusion.calibration.record import read_record
from conffusion.calibration.risk_bounds import BOUNDS
from conffusion.core.choices import PLAIN_FAMILIES, BoundName, UnitName
from conffusion.core.progress import Progress
from conffusion.evaluation.validity import LossCurves, assess_validity
from conffusion.methods.protocols import COMPARISON
from conffusion.pipeline.settings import ValidityStage
from conffusion.pipeline.stages.calibration import matching_stores
from conffusion.pipeline.stages.evaluation import pool_curves
from conffusion.store import atomic_path


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
    ucb: BoundName
    unit: UnitName
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
    quirks of the official code are not repeated here: the protocol itself is what fails. Rows of the
    protocol "comparison" apply every bound to the guaranteed bounds under every plain family and the chosen one.

    Args:
        task: Name of the task.
        method: Name of the method.
        settings: What is drawn, and what is guaranteed.
        files: What is read and written.
    """
    records = {name: read_record(path, with_shape=False) for name, path in files.calibrations.items()}
    own_size = records["guaranteed"].calibration.n  # images, or groups where there are groups
    rows, sizes = [], settings.validity.calibration_sizes or [own_size]
    guarantee, n_draws = settings.calibration, settings.validity.n_draws
    all_series = [*_protocols(records, files, settings.official_quirks), *_comparisons(records, files)]
    progress = Progress("drawing calibration sets", len(all_series) * len(sizes), unit="settings")
    for series in all_series:
        for n in sizes:
            options = CalibrationOptions(guarantee.alpha, guarantee.delta, ucb=series.ucb, unit=series.unit)
            outcome = assess_validity(
                series.curves,
                options,
                n=n,
                n_draws=n_draws,
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
                    "n_draws": n_draws,
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


def _protocols(
    records: Mapping[str, CalibrationRecord], files: ValidityFiles, official_quirks: bool
) -> Iterator[_Series]:
    """Every protocol as the run applies it, and the paper's with its selection of a checkpoint."""
    curves_of = dict(files.pools)
    if official_quirks and files.candidates is not None:
        curves_of["paper"] = files.candidates / f"step-{records['paper'].checkpoint_step:07d}.npz"
    for name, path in curves_of.items():
        record = records[name].calibration
        yield _Series(name, record.scaling, [LossCurves.load(path)], record.ucb, record.unit)
    if files.candidates is not None:
        candidates = [LossCurves.load(path) for path in sorted(files.candidates.glob("*.npz"))]
        record = records["paper"].calibration
        yield _Series("paper", record.scaling, candidates, record.ucb, record.unit, reselect=True)


def _comparisons(records: Mapping[str, CalibrationRecord], files: ValidityFiles) -> Iterator[_Series]:
    """Every bound, and the official count of pixels, under every plain family and the chosen one."""
    if not files.compared:
        return
    stores = [matching_stores(*pair) for pair in files.compared]
    guaranteed = records["guaranteed"].calibration
    curves_of: dict[str, LossCurves] = {
        family: pool_curves(stores, files.splits, Family(family)) for family in PLAIN_FAMILIES
    }
    if guaranteed.scaling not in curves_of:
        curves_of[guaranteed.scaling] = LossCurves.load(files.pools["guaranteed"])
    for family, curves in curves_of.items():
        for ucb in BOUNDS:
            yield _Series(COMPARISON, family, [curves], ucb, "pixel" if ucb == "official" else guaranteed.unit)
