"""Width of calibrated intervals beside the paper's protocol, over redrawn calibration sets of finished runs."""

import argparse
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.calibration_memory import Record, Table
from conffusion.calibration import CalibrationOptions, Family
from conffusion.calibration.record import read_calibration
from conffusion.config.schema import CalibrationSettings
from conffusion.core.choices import FAMILIES, PLAIN_FAMILIES, BoundName, UnitName
from conffusion.core.layout import ResultFolder
from conffusion.errors import StoreError
from conffusion.evaluation.validity import LossCurves, assess_validity
from conffusion.pipeline.stages.calibration import CalibrationFiles, calibrate_method, matching_stores
from conffusion.pipeline.stages.evaluation import pool_curves
from conffusion.store import read_json

IMAGE_COUNTS = (50, 100, 200, 500)
PAPER, PLAIN, GUARANTEED = "paper", "plain WSR", "guaranteed"  # procedures that the verdict compares
POOL_SPLITS = ("calibration", "test")
TEXT = """\
Every draw takes n images (or groups, with all their images) with replacement from the pool, which is the images of the
splits calibration and test; the same draws for every row. `violations`: share of draws whose risk on the whole pool
exceeds alpha, with its standard error. `risk` and `size`: means over the feasible draws of the pool's risk and mean
size at lambda_hat. `size / paper`: over the size of the first row with the same n. The chosen family was chosen and
fitted on the split selection alone, for the run's own n; its expected risk was estimated there."""
VERDICT = """\
Extra width: mean size over that of the paper's protocol, minus 1. Required: that of the guaranteed protocol is at most
half of plain WSR's. Goal: it is not above 0."""


@dataclass(frozen=True)
class Subject:
    """One method on one task of a run.

    Attributes:
        run: Folder of the run.
        task: Name of the task.
        method: Name of the method.
    """

    run: Path
    task: str
    method: str

    @property
    def title(self) -> str:
        """For headings."""
        return f"{self.run.name}, {self.task}, {self.method}"

    def stores(self, protocol: str, split: str) -> tuple[Path, Path]:
        """(bounds, images) of a split."""
        task = self.run / self.task
        return task / self.method / protocol / "bounds" / f"{split}.zarr", task / "images" / f"{split}.zarr"

    def record(self, protocol: str) -> Path:
        """Its calibration.json."""
        return self.run / self.task / self.method / protocol / "calibration.json"

    def curves(self, protocol: str, family: Family) -> LossCurves:
        """Loss curves on the pool."""
        pairs = [matching_stores(*self.stores(protocol, split)) for split in POOL_SPLITS]
        return pool_curves(pairs, self.run / "splits.csv", family)


@dataclass(frozen=True)
class Chosen:
    """The family of the guaranteed protocol.

    Attributes:
        family: The family.
        label: Its name for the verdict.
        text: How it was chosen.
    """

    family: Family
    label: str
    text: str


@dataclass(frozen=True)
class Procedure:
    """A family on some bounds, and how lambda_hat is found.

    Attributes:
        name: For the table.
        family: Name of the family.
        curves: Loss curves on the pool.
        ucb: Bound.
        unit: What it counts.
    """

    name: str
    family: str
    curves: LossCurves
    ucb: BoundName
    unit: UnitName


def measure_width(options: argparse.Namespace) -> list[Table]:
    """A table for every run, task and method, and the verdict on all of them.

    Raises:
        StoreError: If a run has no finished calibration of the methods, or its files are damaged.
    """
    tables, verdicts = [], []
    for subject in [part for run in options.runs for part in _subjects(run, options.methods)]:
        record = read_json(subject.record("guaranteed"))
        chosen = _chosen(subject, record, options)
        procedures = list(_procedures(subject, chosen.family, record["unit"]))
        rows = []
        for n in _counts(record, procedures[0].curves, options.n):
            found = _rows(procedures, n, record, options)
            rows += found
            verdicts.append(_verdict(subject, chosen.label, n, {row["procedure"]: row for row in found}))
        tables.append((f"Width: {subject.title}", chosen.text, rows))
    return [(tables[0][0], f"{TEXT}\n\n{tables[0][1]}", tables[0][2]), *tables[1:], ("Verdict", VERDICT, verdicts)]


def _subjects(run: Path, methods: list[str]) -> list[Subject]:
    """Methods that the run has calibrated under both protocols, on all its tasks."""
    tasks = sorted(path.name for path in run.iterdir() if (path / "images").is_dir()) if run.is_dir() else []
    found = [Subject(run, task, method) for task in tasks for method in methods]
    found = [part for part in found if part.record("guaranteed").is_file() and part.record("paper").is_file()]
    if not found:
        raise StoreError(f"{run}: no calibration of {', '.join(methods)}; finish the run, or name other methods")
    return found


def _chosen(subject: Subject, record: Record, options: argparse.Namespace) -> Chosen:
    """The family of the guaranteed protocol, and how it came about."""
    path = subject.record("guaranteed")
    if ResultFolder(path.parent).family.is_file() and "chosen_among" in record:
        return Chosen(read_calibration(path).family, record["scaling"], _choice(record, "by the run"))
    selection = subject.stores("guaranteed", "selection")
    if not options.fit or not selection[0].is_dir():
        remedy = "it has no selection bounds to fit on" if options.fit else "`--fit` chooses one on the split selection"
        text = f"No family.json: the run is of older code. Family: {record['scaling']}, the only one it had; {remedy}."
        return Chosen(Family(record["scaling"]), f"{record['scaling']} (older code)", text)
    settings = CalibrationSettings(alpha=record["alpha"], delta=record["delta"], ucb="star", families=list(FAMILIES))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "calibration.json"
        files = CalibrationFiles(
            *subject.stores("guaranteed", "calibration"), subject.run / "splits.csv", output, selection
        )
        calibrate_method(settings, "guaranteed", options.seed, files)
        fitted = read_json(output)
        family = read_calibration(output).family
    return Chosen(family, f"{family.name} (fitted here)", _choice(fitted, "here (`--fit`), as a run does"))


def _choice(record: Record, where: str) -> str:
    sizes = ", ".join(f"{name} {size:.4g}" for name, size in record["chosen_among"].items()) or "no other candidate"
    return (
        f"Family: {record['scaling']}, chosen and fitted {where}, on the split {record['chosen_on']} alone;"
        f" expected risk {record['expected_risk']:.4g}. Cross-validated sizes: {sizes}."
    )


def _procedures(subject: Subject, family: Family, unit: UnitName) -> Iterator[Procedure]:
    """The paper's protocol first; then what leads from plain WSR to the guaranteed protocol; then pixels again."""
    yield Procedure(PAPER, "multiplicative", subject.curves("paper", Family("multiplicative")), "official", "pixel")
    curves = {name: subject.curves("guaranteed", Family(name)) for name in PLAIN_FAMILIES}
    chosen = curves[family.name] if family.name in curves else subject.curves("guaranteed", family)
    yield Procedure(PLAIN, "multiplicative", curves["multiplicative"], "wsr", unit)
    for name in PLAIN_FAMILIES:
        yield Procedure(f"star, {name}", name, curves[name], "star", unit)
    yield Procedure("chosen family, wsr", family.name, chosen, "wsr", unit)
    yield Procedure(GUARANTEED, family.name, chosen, "star", unit)
    yield Procedure("chosen family, official", family.name, chosen, "official", "pixel")


def _counts(record: Record, curves: LossCurves, asked: list[int] | None) -> list[int]:
    """Sizes of the draws: those asked for; or, for groups, the run's own number and that of the pool."""
    if asked:
        return asked
    if record["unit"] != "group" or curves.groups is None:
        return list(IMAGE_COUNTS)
    return sorted({int(record["n_bound"]), len(np.unique(curves.groups))})


def _rows(procedures: list[Procedure], n: int, record: Record, options: argparse.Namespace) -> list[Record]:
    """One row per procedure, all from the same draws."""
    rows: list[Record] = []
    for procedure in procedures:
        asked = CalibrationOptions(record["alpha"], record["delta"], ucb=procedure.ucb, unit=procedure.unit)
        drawing = {"n": n, "n_draws": options.draws, "seed": options.seed}
        outcome = assess_validity([procedure.curves], asked, **drawing)
        # Where the losses stand in for the sizes, the mean size at lambda_hat is the risk there.
        risk = assess_validity([replace(procedure.curves, sizes=procedure.curves.losses)], asked, **drawing)
        rows.append(
            {
                "n": n,
                "procedure": procedure.name,
                "family": procedure.family,
                "bound": f"{procedure.ucb}, {procedure.unit}s",
                "violations": outcome.violation_rate,
                "standard_error": outcome.standard_error,
                "infeasible": outcome.infeasible_rate,
                "risk": _number(risk.interval_size_mean),
                "size": _number(outcome.interval_size_mean),
            }
        )
    for row in rows:
        row["size_/_paper"] = _ratio(row["size"], rows[0]["size"])
    return rows


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ratio(value: float | None, reference: float | None) -> float | None:
    return value / reference if value is not None and reference else None


def _verdict(subject: Subject, family: str, n: int, rows: Mapping[str, Record]) -> Record:
    plain, guaranteed = (rows[name]["size_/_paper"] for name in (PLAIN, GUARANTEED))
    known = plain is not None and guaranteed is not None
    return {
        "run": subject.run.name,
        "task": subject.task,
        "method": subject.method,
        "n": n,
        "family": family,
        "plain_WSR_extra": plain - 1.0 if known else None,
        "guaranteed_extra": guaranteed - 1.0 if known else None,
        "violations": rows[GUARANTEED]["violations"],
        "required_met": _yes(guaranteed - 1.0 <= max(plain - 1.0, 0.0) / 2) if known else "unknown",
        "goal_met": _yes(guaranteed <= 1.0) if known else "unknown",
    }


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
