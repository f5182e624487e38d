"""`conffusion predict`: intervals of every image of a folder, as files."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from conffusion.core.arrays import FloatArray
from conffusion.errors import StoreError
from conffusion.images.image import kinds_of_warnings
from conffusion.inference.card import promise_in_words
from conffusion.inference.inputs import Inputs, Item
from conffusion.inference.predictor import Predictor
from conffusion.inference.records import (
    ATYPICAL,
    RECORD,
    SUMMARY,
    fingerprint,
    finished_record,
    write_prediction,
    write_tables,
)
from conffusion.inference.restoring import restore
from conffusion.inference.unscaled import Unscaled
from conffusion.store import atomic_path, read_json


def predict_images(
    predictor: Predictor, inputs: Inputs, output: str | Path, *, pictures: bool = True
) -> dict[str, Any]:
    """Write a folder of predictions; images that are done already, with the same model and content, are kept.

    Args:
        predictor: The model.
        inputs: Images, with their truths where these are known.
        output: Folder to write; made if missing.
        pictures: Whether pictures for people are drawn too.
    Returns:
        The summary, as in `summary.json`.
    Raises:
        DataError: If an image is damaged; what was done before is kept.
        StoreError: If the disk refuses; likewise.
    """
    output = Path(output)
    _check_writable(output, predictor)
    start = time.monotonic()
    done = _finished(predictor, inputs, output)
    names = [name for name in inputs.names if name not in done]
    clock = time.monotonic()
    for item, unscaled in restore(predictor, inputs, names, "predicting"):
        facts = describe_item(predictor, item, unscaled, time.monotonic() - clock)
        interval = predictor.scale(unscaled)
        done[item.name] = write_prediction(
            output / item.name, item, interval, predictor.package, facts, pictures=pictures
        )
        clock = time.monotonic()
    records = [done[name] for name in inputs.names]
    features = np.array([record["features"] for record in records])
    summary = {
        "package": predictor.package.record.name,
        "model_sha256": predictor.package.weights_sha256,
        "lambda_hat": predictor.calibration.lambda_hat,
        "promise": promise_in_words(predictor.package),
        "n_images": len(records),
        "n_predicted_now": len(names),
        "drift": drift_summary(predictor, features, inputs),
        "warnings": input_warnings(predictor, inputs),
        "n_with_warnings": sum(bool(record["warnings"]) for record in records),
        "kinds_of_warnings": kinds_of_warnings([warning for record in records for warning in record["warnings"]]),
        "interval_size_mean": float(np.mean([record["interval_size_mean"] for record in records])),
        "seconds": time.monotonic() - start,
    }
    write_tables(output, records, summary)
    return summary


def describe_item(predictor: Predictor, item: Item, unscaled: Unscaled, seconds: float) -> dict[str, Any]:
    """What the record of an image tells beside the interval."""
    record = predictor.package.record
    return {
        "fingerprint": fingerprint(item, predictor.package),
        "features": unscaled.features()[0].tolist(),
        "tiles": {
            "size": record.image_size,
            "overlap": record.overlap,
            "n": unscaled.n_tiles,
            "odd_holes": unscaled.odd_holes,
        },
        "seconds": seconds,
    }


def drift_summary(predictor: Predictor, features: FloatArray, inputs: Inputs) -> dict[str, Any]:
    """Outcome of the drift check of all images together, and what to say of it."""
    drift = predictor.drift(features, inputs.groups)
    return {
        "p_value": drift.p_value,
        "smallest_p_value": drift.smallest_p_value,
        "n_new": drift.n_new,
        "n_reference": drift.n_reference,
        "unit": drift.unit,
        "most_shifted": [list(shift) for shift in drift.most_shifted],
        "warning": drift.warning(ATYPICAL),
    }


def input_warnings(predictor: Predictor, inputs: Inputs) -> list[str]:
    """Reasons, common to all images, not to rely on the promise."""
    on, warnings = predictor.package.record.calibrated_on, []
    if inputs.value_range != on.value_range:
        ranges = (inputs.value_range, on.value_range)
        ours, theirs = ("by the type" if one is None else f"{one[0]:g} {one[1]:g}" for one in ranges)
        warnings.append(
            f"values are read with --value-range {ours}, but those that calibrated the model {theirs}: use the same"
        )
    if predictor.package.record.bfloat16 and not predictor.bfloat16:
        warnings.append(
            "the model was calibrated in bfloat16, which this device has not: bounds differ by its rounding"
        )
    return warnings


def _identity(predictor: Predictor) -> tuple[str, float]:
    return predictor.package.weights_sha256, predictor.calibration.lambda_hat


def _finished(predictor: Predictor, inputs: Inputs, output: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for name in _with_record(inputs, output):
        record = finished_record(output / name, fingerprint(inputs.load(name), predictor.package))
        if record is not None:
            found[name] = record
    return found


def _with_record(inputs: Inputs, output: Path) -> Iterator[str]:
    return (name for name in inputs.names if (output / name / RECORD).is_file())


def _check_writable(output: Path, predictor: Predictor) -> None:
    """Raise before any work if nothing could be written, or another model's predictions would be mixed with these."""
    if output.exists() and not output.is_dir():
        raise StoreError(f"{output}: is a file; give the folder for the predictions")
    if (output / SUMMARY).is_file():
        earlier = read_json(output / SUMMARY)
        if (earlier.get("model_sha256"), earlier.get("lambda_hat")) != _identity(predictor):
            raise StoreError(
                f"{output}: holds predictions of another model or calibration, {earlier.get('package')}; choose "
                "another folder, or remove it"
            )
    with atomic_path(output / ".writable") as temporary:
        temporary.touch()
    (output / ".writable").unlink(missing_ok=True)
