"""Evaluation of one method under one protocol on the test images."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conffusion.calibration import Calibration, Family
from conffusion.calibration.record import read_calibration
from conffusion.calibration.risk_bounds import Level, get_bound
from conffusion.calibration.units import unit_means
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.data.splits import groups_of
from conffusion.evaluation.diagnostics import risk_by_position
from conffusion.evaluation.drift import check_drift, interval_features
from conffusion.evaluation.validity import LossCurves, loss_curves
from conffusion.metrics import Stratify, evaluate, image_losses, size_quartile_edges, stratified_counts
from conffusion.pipeline.stages.calibration import matching_stores
from conffusion.store import SealedStore, atomic_path, write_json
from conffusion.tasks import build_task

LOGGER = logging.getLogger(__name__)
CURVE_POINTS = 41
_POSITIONS = 16  # cells along each side of the map of risks


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
        positions: NPZ to write, `risk` and `n_pixels` on a grid of 16 x 16 cells of the test images.
        pool: Loss curves of the pooled calibration and test images, to write, for the validity table.
    """

    calibration: Path
    bounds: dict[str, Path]
    images: dict[str, Path]
    splits: Path
    metrics: Path
    per_image: Path
    curve: Path
    positions: Path
    pool: Path


def evaluate_method(method: str, replicate: int, protocol: str, files: EvaluationFiles) -> None:
    """Metrics of the calibrated bounds on the test images."""
    stores = {split: matching_stores(files.bounds[split], files.images[split]) for split in ("calibration", "test")}
    bounds, images = stores["test"]
    calibration = read_calibration(files.calibration)
    lower, upper = calibration.apply(bounds["lower"][:], bounds["upper"][:])
    groups = groups_of(files.splits, images.image_ids)
    calibrated = LabelledBounds(lower, upper, images["target"][:], images["mask"][:], groups)
    arrays = (lower, upper, calibrated.target, calibrated.mask)
    task = build_task(str(images.attributes["task"]))
    unit: Stratify = "image" if task.has_mask else "image_channel"  # what the official code ranks by interval size
    metrics, official = evaluate(*arrays), evaluate(*arrays, stratify=unit)
    evaluated = int(calibrated.count_evaluated().sum())
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
            "drift_p_value": _drift_p_value(stores["calibration"], stores["test"], files.splits),
        },
    )
    _write_per_image(calibrated, images.image_ids, files.per_image)
    _write_positions(calibrated, files.positions)
    curves = pool_curves([stores["calibration"], stores["test"]], files.splits, calibration.family)
    with atomic_path(files.pool) as temporary:
        curves.save(temporary)
    _write_curve(calibration, curves, len(stores["calibration"][1].image_ids), files.curve)


def _drift_p_value(
    reference: tuple[SealedStore, SealedStore], new: tuple[SealedStore, SealedStore], splits: Path
) -> float:
    """P-value of the test that the intervals of new images look like those of the calibration images."""
    features, groups = [], []
    for bounds, images in (reference, new):
        features.append(interval_features(bounds["lower"], bounds["upper"], images["mask"]))
        groups.append(groups_of(splits, images.image_ids))
    drift = check_drift(*features, reference_groups=groups[0], new_groups=groups[1])
    warning = drift.warning()
    if warning:
        LOGGER.warning("%s", warning)
    return drift.p_value


def pool_curves(
    stores: Sequence[tuple[Mapping[str, Any] | SealedStore, SealedStore]], splits: str | Path, family: Family
) -> LossCurves:
    """Loss curves on the pooled images of several splits, each given as (bounds, images)."""

    def joined(member: int, name: str) -> Any:
        return np.concatenate([np.asarray(pair[member][name][:]) for pair in stores])

    ids = tuple(image_id for _, images in stores for image_id in images.image_ids)
    arrays = joined(0, "lower"), joined(0, "upper"), joined(1, "target"), joined(1, "mask")
    return loss_curves(LabelledBounds(*arrays, groups_of(splits, ids)), family)


def _floats(values: Any) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]  # None: the quartile is empty


def _write_per_image(images: LabelledBounds, image_ids: Sequence[str], output: Path) -> None:
    misses, pixels = stratified_counts(images, size_quartile_edges(images))
    risk, size = image_losses(images.lower, images.upper, images.target, images.mask)
    table = pd.DataFrame(
        {
            "image_id": image_ids,
            "group": image_ids if images.groups is None else images.groups,
            "risk": risk,
            "interval_size": size,
        }
    )
    for k in range(4):
        table[f"misses_{k + 1}"], table[f"pixels_{k + 1}"] = misses[:, k], pixels[:, k]
    with atomic_path(output) as temporary:
        table.to_csv(temporary, index=False)


def _write_positions(images: LabelledBounds, output: Path) -> None:
    height, width = images.shape[2:]
    positions = risk_by_position(images, n_rows=min(_POSITIONS, height), n_columns=min(_POSITIONS, width))
    with atomic_path(output) as temporary, temporary.open("wb") as file:
        np.savez(file, risk=positions.risk, n_pixels=positions.n_pixels)


def _write_curve(calibration: Calibration, curves: LossCurves, n_calibration: int, output: Path) -> None:
    """Risk, its bound and interval size at scales around lambda_hat, each split by its own images."""
    rows, groups = [], None if curves.groups is None else curves.groups[:n_calibration]
    bound, level = get_bound(calibration.ucb), Level(calibration.alpha, calibration.delta, calibration.n)
    for k in _curve_points(curves, calibration.lambda_hat):
        losses = unit_means(curves.losses[:n_calibration, k], groups)  # in the order in which they were calibrated on
        rows.append(
            {
                "lambda": float(curves.lambdas[k]),
                "calibration_risk": float(losses.mean()),
                "calibration_risk_ucb": bound.value(losses, level),
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
