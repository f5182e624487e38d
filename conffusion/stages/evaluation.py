"""Calibration of one method under one protocol, its evaluation on the test images, and the validity table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conffusion.calibration import Calibration
from conffusion.calibration.procedure import LambdaGrid
from conffusion.calibration.rules import Level, get_rule
from conffusion.calibration.scaling import ScalingName
from conffusion.calibration.validity import LossCurves, assess_validity, loss_curves
from conffusion.config.schema import CalibrationSettings, ValiditySettings
from conffusion.errors import CalibrationError, StoreError
from conffusion.methods.protocols import Protocol, get_protocol
from conffusion.metrics import Stratify, evaluate, image_losses, size_quartile_edges, stratified_counts
from conffusion.stages.images import groups_of
from conffusion.store import SealedStore, atomic_path, open_store, read_json, write_json
from conffusion.tasks import build_task

CURVE_POINTS = 41


def calibrate_method(
    settings: CalibrationSettings,
    protocol: str,
    *,
    bounds: str | Path,
    images: str | Path,
    splits: str | Path,
    output: str | Path,
    grid: LambdaGrid | None = None,
) -> None:
    """Find lambda_hat on the calibration split: `calibration.json`.

    With a grid (see `official_grid`) the protocol "paper" scans it as the official code does.

    Raises:
        CalibrationError: If no scale satisfies alpha and delta; says how many images or groups would be needed.
        StoreError: If a store is incomplete, or bounds and images are of different images.
    """
    bound_store, image_store = _matching(bounds, images)
    rules = get_protocol(protocol, official_quirks=grid is not None)
    try:
        result = _calibrate(rules, bound_store, image_store, splits, settings, grid)
    except CalibrationError as error:
        raise CalibrationError(f"{bounds}, protocol {protocol}: {error}") from error
    write_json(
        output,
        {
            "lambda_hat": result.lambda_hat,
            "risk": result.risk,
            "risk_ucb": result.risk_ucb,
            "n_images": len(image_store.image_ids),
            "n_bound": result.n,
            "unit": result.unit,
            "ucb": result.ucb,
            "scaling": result.scaling,
            "alpha": result.alpha,
            "delta": result.delta,
            "split": "calibration",
            "selected_on": rules.selected_on,
            "checkpoint_step": bound_store.attributes.get("checkpoint_step"),
            "feasible": rules.is_feasible(result),
        },
    )


@dataclass(frozen=True)
class EvaluationFiles:
    """Where the evaluation of one method under one protocol reads and writes.

    Attributes:
        calibration: calibration.json.
        bounds: Bounds of the splits calibration and test.
        images: Images of the splits calibration and test.
        splits: splits.csv.
        metrics: JSON to write.
        per_image: CSV to write, one row per test image.
        curve: CSV to write, risk and size against lambda.
        pool: Loss curves of the pooled calibration and test images, to write, for the validity table.
    """

    calibration: Path
    bounds: dict[str, Path]
    images: dict[str, Path]
    splits: Path
    metrics: Path
    per_image: Path
    curve: Path
    pool: Path


def evaluate_method(method: str, replicate: int, protocol: str, files: EvaluationFiles) -> None:
    """Metrics of the calibrated bounds on the test images."""
    stores = {split: _matching(files.bounds[split], files.images[split]) for split in ("calibration", "test")}
    bounds, images = stores["test"]
    calibration = read_calibration(files.calibration)
    lower, upper = calibration.apply(bounds["lower"][:], bounds["upper"][:])
    target, mask = images["target"][:], images["mask"][:]
    task = build_task(str(images.attributes["task"]))
    unit: Stratify = "image" if task.known_outside else "image_channel"  # what the official code ranks by interval size
    metrics = evaluate(lower, upper, target, mask)
    official = evaluate(lower, upper, target, mask, stratify=unit)
    evaluated = int((np.asarray(mask) > 0).sum())
    write_json(
        files.metrics,
        {
            "task": task.name,
            "method": method,
            "replicate": replicate,
            "protocol": protocol,
            "risk": float(metrics.risk),
            "interval_size_mean": float(metrics.interval_size_mean),
            "interval_size_median": float(metrics.interval_size_median),
            "stratified_risk": _floats(metrics.stratified_risk),
            "stratified_risk_official": _floats(official.stratified_risk),
            "official_unit": unit,
            "n_test": len(images.image_ids),
            "n_variants": bounds.attributes.get("n_variants"),
            "forward_passes_per_image": bounds.attributes["forward_passes_per_image"],
            "seconds_per_image": bounds.attributes["seconds_per_image"],
            "n_crossed": bounds.attributes["n_crossed"],
            "fraction_crossed": bounds.attributes["n_crossed"] / evaluated,
        },
    )
    _write_per_image(files, images, (lower, upper, target, mask))
    curves = pool_curves([stores["calibration"], stores["test"]], files.splits, calibration.scaling)
    curves.save(files.pool)
    _write_curve(calibration, curves, len(stores["calibration"][1].image_ids), files.curve)


def read_calibration(path: str | Path) -> Calibration:
    """The calibration in a run's `calibration.json`, to be applied to further bounds of the same method.

    Raises:
        StoreError: If the file is missing or damaged.
    """
    record = read_json(path)
    names = ("lambda_hat", "risk", "risk_ucb", "alpha", "delta", "scaling", "ucb", "unit", "n_images")
    return Calibration(**{name: record[name] for name in names}, n=record["n_bound"])


def pool_curves(
    stores: Sequence[tuple[Mapping[str, Any] | SealedStore, SealedStore]],
    splits: str | Path,
    scaling: ScalingName = "multiplicative",
) -> LossCurves:
    """Loss curves on the pooled images of several splits, each given as (bounds, images)."""

    def joined(member: int, name: str) -> Any:
        return np.concatenate([np.asarray(pair[member][name][:]) for pair in stores])

    ids = tuple(image_id for _, images in stores for image_id in images.image_ids)
    return loss_curves(
        joined(0, "lower"),
        joined(0, "upper"),
        joined(1, "target"),
        joined(1, "mask"),
        scaling=scaling,
        groups=groups_of(splits, ids),
    )


def assess_method_validity(
    task: str,
    method: str,
    calibration: CalibrationSettings,
    validity: ValiditySettings,
    seed: int,
    *,
    calibrations: Mapping[str, str | Path],
    pools: Mapping[str, str | Path],
    candidates: str | Path | None,
    output: str | Path,
    official_quirks: bool = False,
) -> None:
    """Rows of validity.csv for one method: how often the promise breaks when calibration sets are drawn again.

    Checkpoints stay fixed; a further row of the paper's protocol selects anew among all stored ones in every draw. The
    accidents of the official code are not repeated here: what breaks the promise is the protocol itself.

    Args:
        task: Name of the task.
        method: Name of the method.
        calibration: alpha, delta, bound and family.
        validity: Sizes and number of draws.
        seed: The run's seed.
        calibrations: By protocol, calibration.json; gives the size of the drawn sets where none is configured.
        pools: By protocol, loss curves on the pool of calibration and test images.
        candidates: Folder of the loss curves of all stored checkpoints; None for a method without checkpoints.
        output: CSV to write.
        official_quirks: Whether the run repeats these accidents, so that the paper's curves are those of the candidate.
    """
    curves_of = dict(pools)
    if official_quirks and candidates is not None:
        step = int(read_json(calibrations["paper"])["checkpoint_step"])
        curves_of["paper"] = Path(candidates) / f"step-{step:07d}.npz"
    variants = [(name, [LossCurves.load(path)], False) for name, path in curves_of.items()]
    if candidates is not None:
        variants.append(("paper", [LossCurves.load(path) for path in sorted(Path(candidates).glob("*.npz"))], True))
    rows = []
    own_size = int(read_json(calibrations["guaranteed"])["n_bound"])  # images, or groups where there are groups
    for name, curves, reselect in variants:
        record = read_json(calibrations[name])
        for n in validity.n or [own_size]:
            outcome = assess_validity(
                curves,
                n=n,
                n_draws=validity.n_draws,
                alpha=calibration.alpha,
                delta=calibration.delta,
                ucb=record["ucb"],
                unit=record["unit"],
                seed=seed,
                reselect=reselect,
            )
            rows.append(
                {
                    "task": task,
                    "method": method,
                    "protocol": name,
                    "bound": _bound_label(record, reselect),
                    "family": record["scaling"],
                    "n": n,
                    "n_draws": validity.n_draws,
                    "violation_rate": outcome.violation_rate,
                    "standard_error": outcome.standard_error,
                    "infeasible_rate": outcome.infeasible_rate,
                    "interval_size_mean": outcome.interval_size_mean,
                }
            )
    with atomic_path(output) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def gather_rows(parts: Sequence[str | Path], output: str | Path) -> None:
    """Join CSV files with the same columns."""
    with atomic_path(output) as temporary:
        pd.concat([pd.read_csv(part) for part in parts]).to_csv(temporary, index=False)


def _bound_label(record: Mapping[str, Any], reselect: bool) -> str:
    label = f"{record['ucb']}, n = {record['unit']}s"
    return f"{label}, checkpoint reselected" if reselect else label


def _calibrate(
    protocol: Protocol,
    bounds: SealedStore,
    images: SealedStore,
    splits: str | Path,
    settings: CalibrationSettings,
    grid: LambdaGrid | None,
) -> Calibration:
    return protocol.calibrate(
        bounds["lower"],
        bounds["upper"],
        images["target"],
        mask=images["mask"],
        groups=groups_of(splits, images.image_ids),
        settings=settings,
        grid=grid,
    )


def _matching(bounds: str | Path, images: str | Path) -> tuple[SealedStore, SealedStore]:
    bound_store, image_store = open_store(bounds), open_store(images)
    if bound_store.image_ids != image_store.image_ids:
        raise StoreError(f"{bounds} and {images} hold different images; rerun the rule that makes the bounds")
    return bound_store, image_store


def _floats(values: Any) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]  # None: the quartile is empty


def _write_per_image(files: EvaluationFiles, images: SealedStore, arrays: tuple[Any, Any, Any, Any]) -> None:
    lower, upper, target, mask = arrays
    edges = size_quartile_edges(lower, upper, mask)
    misses, pixels = stratified_counts(lower, upper, target, mask, edges)
    risk, size = image_losses(lower, upper, target, mask)
    groups = groups_of(files.splits, images.image_ids)
    table = pd.DataFrame(
        {
            "image_id": images.image_ids,
            "group": images.image_ids if groups is None else groups,
            "risk": risk,
            "interval_size": size,
        }
    )
    for k in range(4):
        table[f"misses_{k + 1}"], table[f"pixels_{k + 1}"] = misses[:, k], pixels[:, k]
    with atomic_path(files.per_image) as temporary:
        table.to_csv(temporary, index=False)


def _write_curve(calibration: Calibration, curves: LossCurves, n_calibration: int, output: Path) -> None:
    """Risk, its bound and interval size at scales around lambda_hat, each split by its own images."""
    rows = []
    rule, level = get_rule(calibration.ucb), Level(calibration.alpha, calibration.delta, calibration.n)
    for k in _curve_points(curves, calibration.lambda_hat):
        losses = _unit_losses(curves.losses[:n_calibration, k], curves, n_calibration)
        rows.append(
            {
                "lambda": float(curves.lambdas[k]),
                "calibration_risk": float(losses.mean()),
                "calibration_risk_ucb": rule.bound(losses, level),
                "test_risk": float(curves.losses[n_calibration:, k].mean()),
                "test_size": float(curves.sizes[n_calibration:, k].mean()),
            }
        )
    with atomic_path(output) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def _curve_points(curves: LossCurves, lambda_hat: float) -> list[int]:
    """Grid points, evenly spread in risk between a fifth of and three times the risk at lambda_hat."""
    risks = curves.losses.mean(axis=0)  # falls along the grid
    at_hat = float(np.interp(lambda_hat, curves.lambdas, risks))
    wanted = np.linspace(3 * at_hat, at_hat / 5, CURVE_POINTS)
    return sorted({int(k) for k in np.clip(np.searchsorted(-risks, -wanted), 0, len(risks) - 1)})


def _unit_losses(losses: Any, curves: LossCurves, n_calibration: int) -> Any:
    if curves.groups is None:
        return losses
    return pd.Series(losses).groupby(np.asarray(curves.groups[:n_calibration])).mean().to_numpy()
