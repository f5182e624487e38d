"""A package from the results of a run of the workflow."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conffusion import __version__
from conffusion.bounds import sort_bounds
from conffusion.calibration import Calibration
from conffusion.calibration.record import read_calibration
from conffusion.calibration.units import index_by_appearance
from conffusion.config import read_yaml
from conffusion.core.arrays import FloatArray
from conffusion.core.device import select_device
from conffusion.data.splits import groups_of
from conffusion.errors import PackageError
from conffusion.evaluation.drift import given_features, interval_features
from conffusion.inference.evidence import Evidence
from conffusion.inference.package import (
    CalibratedOn,
    CalibrationValues,
    Package,
    PackageRecord,
    SamplingRecord,
    calibration_record,
)
from conffusion.methods.protocols import PROTOCOLS
from conffusion.methods.registry import get_method
from conffusion.metrics import image_losses
from conffusion.store import SealedStore, open_store, read_json
from conffusion.tasks import build_task, portable_settings

_OVERLAP = 0.25  # of a tile


def package_run(run: str | Path, task: str, method: str, protocol: str = "guaranteed", name: str = "") -> Package:
    """Package one calibrated method of a finished run.

    Args:
        run: The run's folder, `results/<run>`.
        task: Name of the task.
        method: Name of the method; of several fine-tuning runs the first.
        protocol: "guaranteed" or "paper".
        name: What to call the model; by default run, task and method.
    Raises:
        PackageError: If the run lacks it, or its scale controls nothing.
        StoreError: If a result is missing or damaged; rerun the workflow.
    """
    config, folder = _RunSettings.of(run), Path(run) / task / method / protocol
    rules, record_file = PROTOCOLS.get(protocol), folder / "calibration.json"
    if rules is None or not record_file.is_file():
        raise PackageError(f"{record_file}: is missing; {_what_is_there(Path(run))}")
    record, calibration = read_json(record_file), read_calibration(record_file)
    if not record["feasible"]:
        raise PackageError(f"{record_file}: its scale does not control the risk, so it makes no package")
    bounds = open_store(folder / "bounds" / "calibration.zarr")
    side = int(bounds["lower"].shape[-1])
    images = _images(Path(run) / task, bounds, side)
    settings = portable_settings(task, config.get("tasks", task, "degradation"))
    content = PackageRecord(
        version=__version__,
        name=name or f"{Path(run).resolve().name} {task} {method}",
        task=task,
        degradation=settings,
        method=method,
        protocol=protocol,
        sorts_bounds=rules.sorts_bounds,
        seed=config.get("seed"),
        image_size=side,
        overlap=_overlap(side, build_task(task, **settings).factor),
        bfloat16=_ran_in_bfloat16(config),
        sampling=_sampling(config) if get_method(method).is_sampled else None,
        calibration=CalibrationValues(**calibration_record(calibration)),
        family=calibration.family.to_dict(),
        calibrated_on=CalibratedOn(
            description=f"{config.get('dataset', 'name')}, run {config.get('run')}, split calibration",
            smallest=(side, side),
            largest=(side, side),
            masks="centre" if build_task(task, **settings).has_mask else "none",
            value_range=_value_range(config),
        ),
        provenance={
            "run": config.get("run"),
            "checkpoint_step": record["checkpoint_step"],
            **_code_behind(images),
        },
    )
    evidence = _evidence(calibration, bounds, images, Path(run) / "splits.csv")
    return Package(content, _weights(config, Path(run), task, folder), evidence)


@dataclass(frozen=True)
class _RunSettings:
    """What a package needs of a run's configuration, be it of this version or of another.

    Attributes:
        values: All keys, as in the run's config.yaml.
    """

    values: Mapping[str, Any]

    @classmethod
    def of(cls, run: str | Path) -> "_RunSettings":
        file = Path(run) / "config.yaml"
        if not file.is_file():
            raise PackageError(f"{run}: has no config.yaml, so it is no run of the workflow; give results/<run>")
        return cls(read_yaml(file))

    def get(self, *keys: str) -> Any:
        """The value at a path of keys."""
        value: Any = self.values
        for key in keys:
            if not isinstance(value, Mapping) or key not in value:
                raise PackageError(f"config.yaml of run {self.values.get('run')}: has no {'.'.join(keys)}")
            value = value[key]
        return value


def _what_is_there(run: Path) -> str:
    found = sorted(file.parent.relative_to(run).as_posix() for file in run.glob("*/*/*/calibration.json"))
    if not found:
        return "the run has no calibrated method yet"
    return f"the run has {', '.join(found)} (task/method/protocol)"


def _images(task: Path, bounds: SealedStore, side: int) -> SealedStore:
    """The calibration images that the bounds are of: those of other networks' sizes lie beside them."""
    candidates = [task / "images" / "calibration.zarr", task / f"images-{side}" / "calibration.zarr"]
    for store in (open_store(path) for path in candidates if path.is_dir()):
        if store["target"].shape[-1] == side and store.image_ids == bounds.image_ids:
            return store
    raise PackageError(f"{task}/images: holds no calibration images of {side} pixels; rerun the workflow")


def _code_behind(images: SealedStore) -> dict[str, str]:
    """Name and checksum of the user's function that corrupted the images, where there is one; packages hold no code."""
    degradation = images.attributes["degradation"]
    if "function" not in degradation:
        return {}
    return {"corrupted_by": f"{Path(degradation['function']).name} (SHA-256 of the file `{degradation['sha256']}`)"}


def _value_range(config: _RunSettings) -> tuple[float, float] | None:
    """Sample values that stood for 0 and 1; runs of older code have no such key."""
    folder = config.get("dataset").get("folder") or {}
    given = folder.get("value_range") if config.get("dataset", "name") == "folder" else None
    return None if given is None else (given[0], given[1])


def _overlap(side: int, factor: int) -> int:
    return int(side * _OVERLAP) // factor * factor


def _sampling(config: _RunSettings) -> SamplingRecord:
    if config.get("sampling", "adaptive_stopping", "precision") is not None:
        raise PackageError(
            "sampling.adaptive_stopping stops drawing early, which packages cannot do: set its precision to null"
        )
    names = ("solver", "n_steps", "n_variants", "shared_start", "storage")
    values = {name: config.get("sampling", name) for name in names}
    return SamplingRecord(**values, quantile=config.get("calibration", "alpha") / 2)


def _ran_in_bfloat16(config: _RunSettings) -> bool:
    """The configured precision; where it was left to the machine, that of this one."""
    return select_device(config.get("device"), config.get("precision"), threads=None).bfloat16


def _evidence(calibration: Calibration, bounds: SealedStore, images: SealedStore, splits: Path) -> Evidence:
    lower, upper = np.asarray(bounds["lower"][:]), np.asarray(bounds["upper"][:])
    target, mask = np.asarray(images["target"][:]), np.asarray(images["mask"][:])
    losses, _ = image_losses(*calibration.apply(lower, upper), target, mask)
    labels = groups_of(splits, bounds.image_ids)
    groups = None if labels is None else index_by_appearance(labels, len(losses))
    given = given_features(images["condition"], None if mask.all() else 1 - mask)
    return Evidence(losses, np.hstack([interval_features(*shaped(calibration, lower, upper), mask), given]), groups)


def shaped(calibration: Calibration, lower: FloatArray, upper: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Bounds of whole images after the family's shape and before the scale, clipped to [0, 1]: what drift looks at."""
    lower, upper, _ = sort_bounds(lower, upper)
    if calibration.shape is not None:
        lower, upper = calibration.shape.apply(lower, upper)
    return lower.clip(0, 1), upper.clip(0, 1)


def _weights(config: _RunSettings, run: Path, task: str, folder: Path) -> bytes:
    own: Any = folder / "model.safetensors"
    if own.is_file():
        return bytes(own.read_bytes())
    prior, shipped = f"{config.get('tasks', task, 'prior')}.safetensors", config.get("priors_dir")
    places = [run / "priors" / prior, *([_project(run) / shipped / prior] if shipped else [])]
    for place in places:
        if place.is_file():
            return place.read_bytes()
    raise PackageError(f"{places[-1]}: the weights of {task} are missing; run the workflow in its own folder first")


def _project(run: Path) -> Path:
    """The folder in which Snakemake ran: results/<run> lies in it."""
    return run.resolve().parents[1]
