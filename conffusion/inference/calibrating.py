"""`conffusion calibrate`: lambda_hat from one's own pairs, for a packaged model or for bounds of any other."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from conffusion.calibration import Calibration, calibrate
from conffusion.calibration.risk_bounds import finite_sample_bound
from conffusion.calibration.ucb import check_level
from conffusion.calibration.units import group_index, group_means, index_by_appearance
from conffusion.core.arrays import FloatArray, GroupLabels
from conffusion.core.choices import BoundName
from conffusion.evaluation.diagnostics import RiskCurve, risk_curve
from conffusion.images.image import kinds_of_warnings
from conffusion.inference.arrays import Arrays
from conffusion.inference.collecting import Collection, new_collection
from conffusion.inference.curve_figure import draw_risk_curve
from conffusion.inference.evidence import Evidence
from conffusion.inference.inputs import Inputs
from conffusion.inference.model_file import write_package
from conffusion.inference.package import CalibratedOn, Package, calibration_record
from conffusion.inference.predictor import Predictor
from conffusion.inference.restoring import restore
from conffusion.inference.verdicts import calibration_verdict
from conffusion.store import write_json, write_text

ORDER_SEED = 0  # arrays may come sorted; pairs, shuffled already, do not mind
MODEL, CALIBRATION, VERDICT = "model.conffusion", "calibration.json", "verdict.md"
CURVE, FIGURE = "risk_curve.csv", "risk_curve.png"


@dataclass(frozen=True)
class Promise:
    """What is to be promised.

    Attributes:
        alpha: Risk level, in (0, 1).
        delta: Error level, in (0, 1).
        ucb: Bound; one with a promise for any number of units.
    """

    alpha: float = 0.1
    delta: float = 0.1
    ucb: BoundName = "star"

    def __post_init__(self) -> None:
        """Refuse what cannot be promised, before any image is predicted."""
        check_level("alpha", self.alpha)
        check_level("delta", self.delta)
        finite_sample_bound(self.ucb)


def calibrate_package(
    predictor: Predictor, inputs: Inputs, promise: Promise, output: str | Path, *, description: str, licence: str
) -> str:
    """Find lambda_hat on pairs and write the model with it: `model.conffusion` and what tells how it came about.

    Every image is predicted just as it will be later, in tiles where it is larger than the network's images, and the
    risk is that of whole images.

    Args:
        predictor: The model; the set family stays, its scale is found anew.
        inputs: Images with truths; put into a random order that depends on the seed and their names.
        promise: What is to be promised.
        output: Folder to write.
        description: Of the images, for the model card.
        licence: Text of the licence of the new package.
    Returns:
        The verdict, in words.
    Raises:
        CalibrationError: If no scale keeps the promise; says how many images or groups would be needed.
        DataError: If an image is damaged or does not fit its truth.
    """
    output, package = Path(output), predictor.package
    inputs = inputs.shuffled(package.record.seed)
    with new_collection(output) as collection:
        warnings = _collect(predictor, inputs, collection)
        found, curve = _calibrate(collection.arrays, package.family.scaling.name, promise, inputs.groups)
        calibration = replace(found, scaling=package.family.name, shape=package.family.shape)
        before = collection.losses(package.family.scaling.name, package.calibration.lambda_hat)
        losses = collection.losses(package.family.scaling.name, calibration.lambda_hat)
        on = CalibratedOn(
            description=description,
            smallest=collection.smallest,
            largest=collection.largest,
            channels=tuple(sorted(collection.channels)),
            masks=inputs.masks,
            value_range=inputs.value_range,
        )
        numbers = None if inputs.groups is None else index_by_appearance(inputs.groups, len(losses))
        evidence = Evidence(losses, np.concatenate(collection.features), numbers)
    new = package.recalibrated(calibration, on, evidence, bfloat16=predictor.bfloat16)
    write_package(new, output / MODEL, licence)
    verdict = calibration_verdict(calibration, _unit_mean(before, inputs.groups), package.calibration)
    verdict = "\n".join([verdict, *(f"WARNING: {count} of the pairs: {text}" for text, count in warnings.items())])
    _write_results(output, calibration, curve, verdict, new)
    return verdict


def calibrate_arrays(
    arrays: Arrays, promise: Promise, output: str | Path, *, scaling: str, groups: GroupLabels | None
) -> str:
    """Find lambda_hat for bounds made by any method.

    Args:
        arrays: Bounds and truth, (N, C, H, W).
        promise: What is to be promised.
        output: Folder to write.
        scaling: "multiplicative", "additive" or "interval".
        groups: (N,) labels; None where every image is its own group.
    Returns:
        The verdict, in words.
    Raises:
        CalibrationError: If no scale keeps the promise; says how many images or groups would be needed.
    """
    calibration, curve = _calibrate(arrays.as_mapping(), scaling, promise, groups)
    verdict = calibration_verdict(calibration)
    _write_results(Path(output), calibration, curve, verdict)
    return verdict


def _collect(predictor: Predictor, inputs: Inputs, collection: Collection) -> dict[str, int]:
    """Fill the collection; returns kinds of warnings about values, with the number of pairs that have them."""
    warnings: list[str] = []
    for item, unscaled in restore(predictor, inputs, list(inputs.names), "predicting pairs"):
        assert item.target is not None
        target = np.asarray(item.target, dtype=np.float64)
        collection.append(item.name, unscaled.lower, unscaled.upper, target, unscaled.mask, unscaled.features())
        warnings += item.warnings
    return kinds_of_warnings(warnings)


def _calibrate(
    arrays: dict[str, Any], scaling: str, promise: Promise, groups: GroupLabels | None
) -> tuple[Calibration, RiskCurve]:
    values = (arrays["lower"], arrays["upper"], arrays["target"])
    options: dict[str, Any] = {
        "alpha": promise.alpha, "delta": promise.delta, "scaling": scaling, "ucb": promise.ucb, "groups": groups,
        "order_seed": ORDER_SEED,
    }  # fmt: skip
    calibration = calibrate(*values, mask=arrays["mask"], **options)
    return calibration, risk_curve(*values, arrays["mask"], **options)


def _unit_mean(losses: FloatArray, groups: GroupLabels | None) -> float:
    return float((losses if groups is None else group_means(losses, group_index(groups, len(losses)))).mean())


def _write_results(
    output: Path, calibration: Calibration, curve: RiskCurve, verdict: str, package: Package | None = None
) -> None:
    rows = zip(curve.lambdas, curve.risk, curve.risk_ucb, curve.size_mean, strict=True)
    lines = ["lambda,risk,risk_ucb,interval_size_mean", *(",".join(f"{value:.9g}" for value in row) for row in rows)]
    write_text(output / CURVE, "\n".join(lines) + "\n")
    draw_risk_curve(curve, calibration, output / FIGURE)
    write_text(output / VERDICT, verdict + "\n")
    record = calibration_record(calibration)
    if package is not None:
        record |= {"package": package.record.name, "model_sha256": package.weights_sha256}
    write_json(output / CALIBRATION, record)
