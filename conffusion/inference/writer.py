"""A folder of predictions: one folder an image, and tables over all of them."""

import csv
import hashlib
import io
import json
import time
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from conffusion.errors import StoreError
from conffusion.evaluation.drift import ATYPICAL
from conffusion.images.image import kinds_of_warnings
from conffusion.images.listing import mark_results
from conffusion.images.writing import write_like
from conffusion.inference import RECORD, SUMMARY, TABLE
from conffusion.inference.interval import Interval
from conffusion.inference.package import Package
from conffusion.inference.pictures import draw_pictures, write_png
from conffusion.inference.reader import Item, Reader
from conffusion.store import atomic_path, read_json, write_json, write_text

COLUMNS = ("image", "folder", "risk", "interval_size_mean", "drift_p_value", "seconds")
_ROUNDING: Mapping[str, Any] = {"lower": "down", "upper": "up", "estimate": "nearest"}


class PredictionWriter:
    """Writes predictions into a folder; those that are there already, of the same model and content, are kept.

    Args:
        folder: Where; made if missing.
        package: The model.
        pictures: Whether pictures for people are drawn too.
    Attributes:
        records: `interval.json` of each image that is written, by its name.
    Raises:
        StoreError: If nothing could be written, or the folder holds predictions of another model or calibration.
    """

    def __init__(self, folder: str | Path, package: Package, *, pictures: bool = True) -> None:
        self.folder, self.package, self._pictures = Path(folder), package, pictures
        self.records: dict[str, dict[str, Any]] = {}
        self._check_folder()
        self._clock = time.monotonic()

    def unfinished(self, reader: Reader) -> Reader:
        """The images that are not there yet; the others are taken into `records`."""
        for name in reader.names:
            if (self.folder / name / RECORD).is_file():
                record = _finished_record(self.folder / name, fingerprint(reader.read(name), self.package))
                if record is not None:
                    self.records[name] = record
        self._clock = time.monotonic()
        return reader.only([name for name in reader.names if name not in self.records])

    def write(self, item: Item, interval: Interval) -> None:
        """Write the folder of one image; `interval.json`, which marks it complete, comes last.

        Raises:
            StoreError: If the disk refuses.
        """
        folder = self.folder / item.name
        mark_results(folder)
        files = {
            name: write_like(item.original, folder / name, getattr(interval, name), rounding=rounding).name
            for name, rounding in _ROUNDING.items()
        }
        if item.target is not None:
            files["target"] = write_like(item.original, folder / "target", item.target).name
        if self._pictures:
            pictures = draw_pictures(item.image, interval, item.target)
            files |= {name: write_png(folder / f"{name}.png", picture) for name, picture in pictures.items()}
        if interval.mask is not None:
            files["mask"] = write_png(folder / "mask.png", interval.mask * np.uint8(255))
        record = {**self._record(item, interval), "files": files, "seconds": time.monotonic() - self._clock}
        write_json(folder / RECORD, record)
        self.records[item.name] = record
        self._clock = time.monotonic()

    def write_tables(self, names: Iterable[str], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write `predictions.csv` and `summary.json`, and return the latter.

        Args:
            names: Of all images, in their order.
            facts: More for the summary.
        """
        records = [self.records[name] for name in names]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for record in records:
            values = {**record, "folder": record["name"]}
            writer.writerow(["" if values[name] is None else values[name] for name in COLUMNS])
        write_text(self.folder / TABLE, text.getvalue())
        warnings = [record["warnings"] for record in records]
        summary = {
            "package": self.package.record.name,
            "model_sha256": self.package.weights_sha256,
            "lambda_hat": self.package.calibration.lambda_hat,
            "guarantee": str(self.package.guarantee),
            "n_images": len(records),
            "interval_size_mean": float(np.mean([record["interval_size_mean"] for record in records])),
            "n_with_warnings": sum(map(bool, warnings)),
            "kinds_of_warnings": kinds_of_warnings(chain.from_iterable(warnings)),
            **facts,
        }
        write_json(self.folder / SUMMARY, summary)
        return summary

    def _record(self, item: Item, interval: Interval) -> dict[str, Any]:
        record = self.package.record
        encoding = item.original.encoding
        return {
            "image": item.original.name,
            "name": item.name,
            **self.package.facts,
            "package": record.name,
            "estimate": interval.estimate_kind,
            "risk": None if item.target is None else interval.risk(item.target),
            "interval_size_mean": interval.size_mean,
            "interval_size_median": interval.size_median,
            "drift_p_value": interval.image_p_value,
            "shape": list(interval.lower.shape),
            "bit_depth": item.original.bit_depth,
            "value_range": [encoding.black, encoding.white],  # samples that stand for 0 and 1
            "warnings": [*item.warnings, *image_warnings(self.package, interval)],
            "fingerprint": fingerprint(item, self.package),
            "features": None if interval.features is None else interval.features.tolist(),
            "tiles": {
                "size": record.image_size,
                "overlap": record.overlap,
                "n": interval.n_tiles,
                "odd_holes": interval.odd_holes,
            },
        }

    def _check_folder(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(f"{self.folder}: is a file; give the folder for the predictions")
        if (self.folder / SUMMARY).is_file():
            earlier = read_json(self.folder / SUMMARY)
            found = earlier.get("model_sha256"), earlier.get("lambda_hat")
            if found != (self.package.weights_sha256, self.package.calibration.lambda_hat):
                raise StoreError(
                    f"{self.folder}: holds predictions of another model or calibration, {earlier.get('package')}; "
                    "choose another folder, or remove it"
                )
        with atomic_path(self.folder / ".writable") as temporary:
            temporary.touch()
        (self.folder / ".writable").unlink(missing_ok=True)


def image_warnings(package: Package, interval: Interval) -> list[str]:
    """Reasons not to rely on the guarantee for an image, in words.

    Args:
        package: The model.
        interval: Of the image.
    """
    on, warnings = package.record.calibrated_on, []
    n_channels, height, width = interval.lower.shape
    if not (on.smallest[0] <= height <= on.largest[0] and on.smallest[1] <= width <= on.largest[1]):
        warnings.append(
            f"the model was calibrated on images of {on.sizes} pixels, and this one has {width}x{height}, put together "
            f"from {interval.n_tiles} tiles: the guarantee is not shown to hold for it; calibrate on pairs like it"
        )
    if n_channels not in on.channels:
        ours, theirs = ("a grey image", "colour") if n_channels == 1 else ("a colour image", "grey")
        warnings.append(f"{ours} through a model that was calibrated on {theirs} ones: calibrate on pairs like it")
    if on.masks == "centre" and interval.odd_holes:
        warnings.append(
            "a hole lies at the border or near another one, where less is known than around the holes that calibrated "
            "the model: far more than guaranteed may lie outside; calibrate on pairs with masks like these (--mask)"
        )
    if not package.guarantee.holds:
        warnings.append(str(package.guarantee))
    if interval.image_p_value is not None and interval.image_p_value <= ATYPICAL:
        warnings.append(
            f"its intervals are unlike those of the calibration images (p = {interval.image_p_value:.2g}): the "
            "guarantee, which is a mean over images like those, may not hold for such images"
        )
    return warnings


def fingerprint(item: Item, package: Package) -> str:
    """Of all that a prediction depends on, so that a finished one is not made again."""
    original = item.original
    digest = hashlib.sha256(package.weights_sha256.encode())
    digest.update(package.record.model_dump_json().encode())
    digest.update(repr((original.suffix, original.bit_depth, original.encoding)).encode())
    for array in (item.image, original.alpha, item.mask, item.target):
        digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _finished_record(folder: Path, expected: str) -> dict[str, Any] | None:
    """The record of a complete folder with this fingerprint; None where there is none."""
    try:
        record = json.loads((folder / RECORD).read_text())
        complete = all((folder / name).exists() for name in record["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return dict(record) if complete and record.get("fingerprint") == expected else None
