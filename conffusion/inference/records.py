"""A folder of predictions: one folder an image, and tables over all of them."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conffusion import __version__
from conffusion.images.listing import mark_results
from conffusion.images.writing import write_like
from conffusion.inference.card import promise_in_words
from conffusion.inference.inputs import Item
from conffusion.inference.interval import Interval
from conffusion.inference.package import Package
from conffusion.inference.pictures import picture, side_by_side, size_heat_map
from conffusion.store import atomic_path, write_json, write_text

RECORD, TABLE, SUMMARY = "interval.json", "predictions.csv", "summary.json"
COLUMNS = ("image", "folder", "risk", "interval_size_mean", "drift_p_value", "seconds")
ATYPICAL = 0.01  # level of the warning that an image is unlike the calibration images
_ROUNDING: Mapping[str, Any] = {"lower": "down", "upper": "up", "estimate": "nearest"}


def write_prediction(
    folder: Path, item: Item, interval: Interval, package: Package, facts: Mapping[str, Any], *, pictures: bool = True
) -> dict[str, Any]:
    """Write the folder of one image; `interval.json`, which marks it complete, comes last.

    Args:
        folder: Where; made if missing.
        item: What was restored.
        interval: The result.
        package: The model.
        facts: More for the record: tiles, features, fingerprint, seconds.
        pictures: Whether pictures for people are drawn too.
    Returns:
        The record.
    Raises:
        StoreError: If the disk refuses.
    """
    mark_results(folder)
    files = {
        name: write_like(item.original, folder / name, getattr(interval, name), rounding=rounding).name
        for name, rounding in _ROUNDING.items()
    }
    if item.target is not None:
        files["target"] = write_like(item.original, folder / "target", item.target).name
    if pictures:
        files |= _write_pictures(folder, item, interval)
    if interval.mask is not None:
        files["mask"] = _write_png(folder / "mask.png", interval.mask * np.uint8(255))
    risk = None if item.target is None else interval.risk(item.target)
    record = {
        "image": item.original.name,
        "name": item.name,
        "task": package.record.task,
        "method": package.record.method,
        "protocol": package.record.protocol,
        "promise": promise_in_words(package),
        "alpha": package.calibration.alpha,
        "delta": package.calibration.delta,
        "lambda_hat": package.calibration.lambda_hat,
        "unit": package.calibration.unit,
        "n": package.calibration.n,
        "n_images": package.calibration.n_images,
        "package": package.record.name,
        "model_sha256": package.weights_sha256,
        "version": __version__,
        "estimate": interval.estimate_kind,
        "risk": risk,
        "interval_size_mean": interval.size_mean,
        "interval_size_median": interval.size_median,
        "drift_p_value": interval.image_p_value,
        "shape": list(interval.lower.shape),
        "bit_depth": item.original.bit_depth,
        "value_range": [item.original.encoding.black, item.original.encoding.white],  # samples that stand for 0 and 1
        "files": files,
        "warnings": [*item.warnings, *image_warnings(package, item, interval, facts["tiles"])],
        **facts,
    }
    write_json(folder / RECORD, record)
    return record


def image_warnings(package: Package, item: Item, interval: Interval, tiles: Mapping[str, Any]) -> list[str]:
    """Reasons not to rely on the promise for this image, in words.

    Args:
        package: The model.
        item: What was restored.
        interval: The result.
        tiles: Number of tiles `n`, and whether some holes lie otherwise than in training, `odd_holes`.
    """
    on, warnings = package.record.calibrated_on, []
    height, width = interval.lower.shape[1:]
    if not (on.smallest[0] <= height <= on.largest[0] and on.smallest[1] <= width <= on.largest[1]):
        sizes = f"{on.smallest[1]}x{on.smallest[0]}"
        sizes += "" if on.smallest == on.largest else f" to {on.largest[1]}x{on.largest[0]}"
        warnings.append(
            f"the model was calibrated on images of {sizes} pixels, and this one has {width}x{height}, put together "
            f"from {tiles['n']} tiles: the promise is not shown to hold for it; calibrate on pairs like it"
        )
    if len(interval.lower) not in on.channels:
        ours, theirs = ("a grey image", "colour") if len(interval.lower) == 1 else ("a colour image", "grey")
        warnings.append(f"{ours} through a model that was calibrated on {theirs} ones: calibrate on pairs like it")
    if on.masks == "centre" and tiles["odd_holes"]:
        warnings.append(
            "a hole lies at the border or near another one, where less is known than around the holes that calibrated "
            "the model: far more than promised may lie outside; calibrate on pairs with masks like these (--mask)"
        )
    if package.record.protocol != "guaranteed":
        warnings.append(promise_in_words(package))
    if interval.image_p_value is not None and interval.image_p_value <= ATYPICAL:
        warnings.append(
            f"its intervals are unlike those of the calibration images (p = {interval.image_p_value:.2g}): the "
            "promise, which is a mean over images like those, may not hold for such images"
        )
    return warnings


def fingerprint(item: Item, package: Package) -> str:
    """Of all that a prediction depends on, so that a finished one is not made again."""
    digest = hashlib.sha256(package.weights_sha256.encode())
    digest.update(package.record.model_dump_json().encode())
    digest.update(repr((item.original.suffix, item.original.bit_depth, item.original.encoding)).encode())
    for array in (item.image, item.original.alpha, item.mask, item.target):
        digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def finished_record(folder: Path, expected: str) -> dict[str, Any] | None:
    """The record of a complete folder with this fingerprint; None where there is none."""
    try:
        record = json.loads((folder / RECORD).read_text())
        complete = all((folder / name).exists() for name in record["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return dict(record) if complete and record.get("fingerprint") == expected else None


def write_tables(output: Path, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Write `predictions.csv` and `summary.json`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        values = {**record, "folder": record["name"]}
        writer.writerow(["" if values[name] is None else values[name] for name in COLUMNS])
    write_text(output / TABLE, text.getvalue())
    write_json(output / SUMMARY, dict(summary))


def _write_pictures(folder: Path, item: Item, interval: Interval) -> dict[str, str]:
    given = _given(item, interval)
    largest = float(interval.size.max())
    heat = size_heat_map(np.where(interval.restored, interval.size, 0), largest or 1.0)
    panels = {"input": given, **{name: picture(getattr(interval, name)) for name in ("lower", "estimate", "upper")}}
    if item.target is not None:
        panels["truth"] = picture(item.target)
    return {
        "input": _write_png(folder / "input.png", given),
        "size": _write_png(folder / "size.png", heat),
        "overview": _write_png(folder / "overview.png", side_by_side({**panels, "size": heat}, largest or 1.0)),
    }


def _given(item: Item, interval: Interval) -> Any:
    """What was given, at the size of the results, with the hole grey."""
    height, width = interval.lower.shape[1:]
    shown = picture(item.image)
    if interval.mask is not None:
        shown = np.where(interval.mask[..., None] == 1, np.uint8(128), shown)
    if shown.shape[:2] != (height, width):
        rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), shown.shape[:2], strict=True))
        shown = shown[rows[:, None], columns]
    return shown


def _write_png(path: Path, pixels: Any) -> str:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG")
    return path.name


def finite_or_none(value: float) -> float | None:
    """For JSON, which knows no NaN."""
    return value if math.isfinite(value) else None
