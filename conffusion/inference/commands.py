"""`conffusion predict`, `calibrate` and `evaluate`: a folder of predictions, lambda_hat from pairs, a verdict."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from conffusion.calibration.procedure import CalibrationOptions, calibrate_images
from conffusion.calibration.record import CalibrationRecord, write_calibration
from conffusion.calibration.risk_bounds import finite_sample_bound
from conffusion.calibration.scaling import get_scaling
from conffusion.calibration.units import unit_means
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.core.progress import Progress
from conffusion.evaluation.diagnostics import RiskCurve, risk_curve
from conffusion.evaluation.verdicts import calibration_verdict, evaluation_verdict, measure_risk
from conffusion.images.image import kinds_of_warnings
from conffusion.inference.bounds_on_disk import calibrated_losses, temporary_bounds
from conffusion.inference.evidence import Evidence
from conffusion.inference.model_file import write_package
from conffusion.inference.package import CalibratedOn
from conffusion.inference.pictures import draw_risk_curve
from conffusion.inference.predictor import Predictor
from conffusion.inference.reader import Reader
from conffusion.inference.writer import PredictionWriter
from conffusion.metrics import evaluate, image_losses
from conffusion.store import write_json, write_text

MODEL, CALIBRATION, METRICS, VERDICT = "model.conffusion", "calibration.json", "metrics.json", "verdict.md"
CURVE, FIGURE = "risk_curve.csv", "risk_curve.png"
T = TypeVar("T")


def predict_images(
    predictor: Predictor, reader: Reader, output: str | Path, *, pictures: bool = True
) -> dict[str, Any]:
    """Write a folder of predictions; images that are done already, with the same model and content, are kept.

    Args:
        predictor: The model.
        reader: Images, with their truths where these are known.
        output: Folder to write; made if missing.
        pictures: Whether pictures for people are drawn too.
    Returns:
        The summary, as in `summary.json`.
    Raises:
        DataError: If an image is damaged; what was done before is kept.
        StoreError: If the disk refuses; likewise.
    """
    start, writer = time.monotonic(), PredictionWriter(output, predictor.package, pictures=pictures)
    unfinished = writer.unfinished(reader)
    for item, interval in _counted(predictor.map(unfinished), "predicting", len(unfinished)):
        writer.write(item, interval)
    facts = {
        "n_predicted_now": len(unfinished),
        "drift": _drift(predictor, writer, reader),
        "warnings": _common_warnings(predictor, reader),
        "seconds": time.monotonic() - start,
    }
    return writer.write_tables(reader.names, facts)


def calibrate_package(
    predictor: Predictor,
    reader: Reader,
    options: CalibrationOptions,
    output: str | Path,
    *,
    description: str,
    licence: str,
) -> str:
    """Find lambda_hat on pairs and write the model with it: `model.conffusion` and what tells how it came about.

    Every image is predicted just as it will be later, in tiles where it is larger than the network's images, and the
    risk is that of whole images.

    Args:
        predictor: The model; the set family stays, its scale is found anew.
        reader: Images with truths; put into a random order that depends on the seed and their names.
        options: What is to be guaranteed, by a bound that holds for any number of units; the set family is the model's.
        output: Folder to write.
        description: Of the images, for the model card.
        licence: Text of the licence of the new package.
    Returns:
        The verdict, in words.
    Raises:
        CalibrationError: If no scale controls the risk; says how many images or groups would be needed.
        DataError: If an image is damaged or does not fit its truth.
    """
    finite_sample_bound(options.bound_name)
    output, package, reader = Path(output), predictor.package, reader.shuffled()
    family, features, shapes = package.calibration.family, [], []
    warnings: list[str] = []
    options = replace(options, scaling=family.scaling.name)
    with temporary_bounds(output) as on_disk:
        for item, interval in _counted(predictor.map_uncalibrated(reader), "predicting pairs", len(reader)):
            on_disk.append(item.name, interval, item.truth)
            features.append(interval.features)
            shapes.append(interval.lower.shape)
            warnings += item.warnings
        bounds = on_disk.labelled(reader.groups)
        found, curve = calibrate_images(bounds, options), risk_curve(bounds, options)
        losses = calibrated_losses(bounds, found)
        before = calibrated_losses(bounds, replace(found, lambda_hat=package.calibration.lambda_hat))
    calibration = replace(found, scaling=family.name, shape=family.shape)
    channels, heights, widths = zip(*shapes, strict=True)
    on = CalibratedOn(
        description=description,
        smallest=(min(heights), min(widths)),
        largest=(max(heights), max(widths)),
        channels=tuple(sorted(set(channels))),
        masks=reader.masks,
        value_range=reader.options.value_range,
    )
    evidence = Evidence.of(losses, features, reader.groups)
    new = package.recalibrated(calibration, on, evidence, bfloat16=predictor.bfloat16)
    write_package(new, output / MODEL, licence)
    kinds = kinds_of_warnings(warnings)
    verdict = calibration_verdict(calibration, float(unit_means(before, reader.groups).mean()), package.calibration)
    record = CalibrationRecord(
        calibration, package=new.record.name, model_sha256=new.weights_sha256, warnings=kinds or None
    )
    return _write_calibration(output, record, curve, _with_warnings(verdict, kinds))


def calibrate_arrays(bounds: LabelledBounds, options: CalibrationOptions, output: str | Path) -> str:
    """Find lambda_hat for bounds made by any method.

    Args:
        bounds: Of images of one size, and their truth.
        options: What is to be guaranteed, by a bound that holds for any number of units.
        output: Folder to write.
    Returns:
        The verdict, in words.
    Raises:
        CalibrationError: If no scale controls the risk; says how many images or groups would be needed.
    """
    finite_sample_bound(options.bound_name)
    calibration, curve = calibrate_images(bounds, options), risk_curve(bounds, options)
    verdict = calibration_verdict(calibration)
    return _write_calibration(Path(output), CalibrationRecord(calibration), curve, verdict)


def evaluate_package(predictor: Predictor, reader: Reader, output: str | Path, *, pictures: bool = True) -> str:
    """Predict images with truths, write them as `conffusion predict` does, and judge the guarantee.

    Args:
        predictor: The model.
        reader: Images with truths.
        output: Folder to write.
        pictures: Whether pictures for people are drawn too.
    Returns:
        The verdict, in words.
    Raises:
        DataError: If an image is damaged or does not fit its truth.
        StoreError: If the disk refuses.
    """
    output, writer = Path(output), PredictionWriter(output, predictor.package, pictures=pictures)
    with temporary_bounds(output) as on_disk:
        for item, interval in _counted(predictor.map(reader), "evaluating", len(reader)):
            writer.write(item, interval)
            on_disk.append(item.name, interval, item.truth)
        drift = _drift(predictor, writer, reader)
        bounds = on_disk.labelled(reader.groups)
        verdict, metrics = _judge(bounds, predictor.calibration.alpha, drift["warning"])
    common = _common_warnings(predictor, reader)
    summary = writer.write_tables(reader.names, {**metrics, "drift": drift, "warnings": common})
    kinds = summary["kinds_of_warnings"]
    metrics |= {"drift": drift, "warnings": common, "kinds_of_warnings": kinds}
    return _write_evaluation(output, _with_warnings(verdict, kinds, common), metrics)


def evaluate_arrays(
    bounds: LabelledBounds, alpha: float, output: str | Path, *, scaling: str, lambda_hat: float | None
) -> str:
    """Judge bounds made by any method.

    Args:
        bounds: Of images of one size, and their truth.
        alpha: Guaranteed risk level.
        output: Folder to write.
        scaling: Set family of `lambda_hat`.
        lambda_hat: Scale to apply first; None: the bounds are calibrated already.
    Returns:
        The verdict, in words.
    """
    if lambda_hat is not None:
        ends = get_scaling(scaling).apply(np.asarray(bounds.lower), np.asarray(bounds.upper), lambda_hat)
        lower, upper = (end.clip(0, 1) for end in ends)
        bounds = replace(bounds, lower=lower, upper=upper)
    verdict, metrics = _judge(bounds, alpha)
    return _write_evaluation(Path(output), verdict, metrics)


def warning_lines(kinds: Mapping[str, int], common: Iterable[str] = ()) -> list[str]:
    """Warnings for people: those of images with the number of these, and those that concern all."""
    return [f"WARNING: {text}" for text in (*(f"{n} of the images: {text}" for text, n in kinds.items()), *common)]


def _counted(results: Iterable[T], label: str, total: int) -> Iterator[T]:
    """The results, with their progress on the log."""
    progress = Progress(label, total, unit="images")
    for result in results:
        yield result
        progress.update()


def _write_calibration(output: Path, record: CalibrationRecord, curve: RiskCurve, verdict: str) -> str:
    rows = zip(curve.lambdas, curve.risk, curve.risk_ucb, curve.size_mean, strict=True)
    lines = ["lambda,risk,risk_ucb,interval_size_mean", *(",".join(f"{value:.9g}" for value in row) for row in rows)]
    write_text(output / CURVE, "\n".join(lines) + "\n")
    draw_risk_curve(curve, record.calibration, output / FIGURE)
    write_text(output / VERDICT, verdict + "\n")
    write_calibration(output / CALIBRATION, record)
    return verdict


def _judge(bounds: LabelledBounds, alpha: float, drift_warning: str | None = None) -> tuple[str, dict[str, Any]]:
    values = bounds.lower, bounds.upper, bounds.target, bounds.mask
    losses, sizes = image_losses(*values)
    measured = measure_risk(losses, bounds.groups)
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


def _write_evaluation(output: Path, verdict: str, metrics: Mapping[str, Any]) -> str:
    write_text(output / VERDICT, verdict + "\n")
    write_json(output / METRICS, dict(metrics))
    return verdict


def _with_warnings(verdict: str, kinds: Mapping[str, int], common: Iterable[str] = ()) -> str:
    return "\n\n".join([verdict, *warning_lines(kinds, common)])


def _drift(predictor: Predictor, writer: PredictionWriter, reader: Reader) -> dict[str, Any]:
    """Outcome of the drift check of all images together, and what to say of it."""
    features = np.array([writer.records[name]["features"] for name in reader.names])
    drift = predictor.drift(features, reader.groups)
    names = ("p_value", "smallest_p_value", "n_new", "n_reference", "unit")
    return {
        **{name: getattr(drift, name) for name in names},
        "most_shifted": [list(shift) for shift in drift.most_shifted],
        "warning": drift.warning(),
    }


def _common_warnings(predictor: Predictor, reader: Reader) -> list[str]:
    """Reasons, common to all images, not to rely on the guarantee."""
    on, given, warnings = predictor.package.record.calibrated_on, reader.options.value_range, []
    if given != on.value_range:
        ours, theirs = ("by the type" if one is None else f"{one[0]:g} {one[1]:g}" for one in (given, on.value_range))
        warnings.append(
            f"values are read with --value-range {ours}, but those that calibrated the model {theirs}: use the same"
        )
    if predictor.package.record.bfloat16 and not predictor.bfloat16:
        warnings.append(
            "the model was calibrated in bfloat16, which this device has not: bounds differ by its rounding"
        )
    return warnings
