"""`conffusion evaluate`: was the promise kept, on images whose truth is known and that calibrated nothing?"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from conffusion.calibration.scaling import get_scaling
from conffusion.core.arrays import GroupLabels
from conffusion.images.image import kinds_of_warnings
from conffusion.inference.arrays import Arrays
from conffusion.inference.collecting import new_collection
from conffusion.inference.inputs import Inputs
from conffusion.inference.predicting import describe_item, drift_summary
from conffusion.inference.predictor import Predictor
from conffusion.inference.records import write_prediction, write_tables
from conffusion.inference.restoring import restore
from conffusion.inference.verdicts import evaluation_verdict, measure_unit_risk
from conffusion.metrics import evaluate, image_losses
from conffusion.store import write_json, write_text

METRICS, VERDICT = "metrics.json", "verdict.md"


def evaluate_package(predictor: Predictor, inputs: Inputs, output: str | Path, *, pictures: bool = True) -> str:
    """Predict images with truths, write them as `conffusion predict` does, and judge the promise.

    Args:
        predictor: The model.
        inputs: Images with truths.
        output: Folder to write.
        pictures: Whether pictures for people are drawn too.
    Returns:
        The verdict, in words.
    Raises:
        DataError: If an image is damaged or does not fit its truth.
        StoreError: If the disk refuses.
    """
    output, records, start = Path(output), [], time.monotonic()
    warnings: list[str] = []  # about values
    with new_collection(output) as collection:
        for item, unscaled in restore(predictor, inputs, list(inputs.names), "evaluating"):
            assert item.target is not None
            interval = predictor.scale(unscaled)
            facts = describe_item(predictor, item, unscaled, time.monotonic() - start)
            records.append(
                write_prediction(output / item.name, item, interval, predictor.package, facts, pictures=pictures)
            )
            warnings += item.warnings
            mask = unscaled.mask
            collection.append(item.name, interval.lower, interval.upper, item.target, mask, unscaled.features())
            start = time.monotonic()
        arrays = collection.arrays
        drift = drift_summary(predictor, np.concatenate(collection.features), inputs)
        alpha, warning = predictor.calibration.alpha, drift["warning"]
        verdict, metrics = _judge(Arrays(**arrays), alpha, inputs.groups, warning)
    summary = {
        "package": predictor.package.record.name,
        "model_sha256": predictor.package.weights_sha256,
        "lambda_hat": predictor.calibration.lambda_hat,
        "n_images": len(records),
        "drift": drift,
        **metrics,
    }
    write_tables(output, records, summary)
    kinds = kinds_of_warnings(warnings)
    verdict = "\n".join([verdict, *(f"WARNING: {count} of the pairs: {text}" for text, count in kinds.items())])
    _write(output, verdict, {**metrics, "drift": drift})
    return verdict


def evaluate_arrays(
    arrays: Arrays,
    alpha: float,
    output: str | Path,
    *,
    scaling: str,
    lambda_hat: float | None,
    groups: GroupLabels | None,
) -> str:
    """Judge bounds made by any method.

    Args:
        arrays: Bounds and truth, (N, C, H, W).
        alpha: Promised risk level.
        output: Folder to write.
        scaling: Set family of `lambda_hat`.
        lambda_hat: Scale to apply first; None: the bounds are calibrated already.
        groups: (N,) labels; None where every image is its own group.
    Returns:
        The verdict, in words.
    """
    if lambda_hat is not None:
        ends = get_scaling(scaling).apply(np.asarray(arrays.lower), np.asarray(arrays.upper), lambda_hat)
        lower, upper = (end.clip(0, 1) for end in ends)
        arrays = Arrays(lower, upper, arrays.target, arrays.mask)
    verdict, metrics = _judge(arrays, alpha, groups, None)
    _write(Path(output), verdict, metrics)
    return verdict


def _judge(
    arrays: Arrays, alpha: float, groups: GroupLabels | None, drift_warning: str | None
) -> tuple[str, dict[str, Any]]:
    values = (arrays.lower, arrays.upper, arrays.target, arrays.mask)
    losses, sizes = image_losses(*values)
    measured = measure_unit_risk(losses, groups)
    whole = evaluate(*values)
    metrics = {
        "alpha": alpha,
        **asdict(measured),
        "interval_size_mean": float(sizes.mean()),
        "interval_size_median": whole.interval_size_median,
        "stratified_risk": [None if np.isnan(risk) else float(risk) for risk in whole.stratified_risk],
        "share_of_images_above_alpha": float((losses > alpha).mean()),
    }
    metrics["standard_error"] = None if np.isnan(measured.standard_error) else measured.standard_error
    return evaluation_verdict(measured, alpha, drift_warning), metrics


def _write(output: Path, verdict: str, metrics: dict[str, Any]) -> None:
    write_text(output / VERDICT, verdict + "\n")
    write_json(output / METRICS, metrics)
