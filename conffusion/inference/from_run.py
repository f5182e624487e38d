"""A package from the results of a run of the workflow."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conffusion import __version__
from conffusion.bounds import sort_bounds
from conffusion.calibration import Calibration
from conffusion.calibration.record import read_record
from conffusion.config import read_yaml
from conffusion.config.load import RENAMED_KEYS
from conffusion.core.device import select_device
from conffusion.core.layout import RunLayout
from conffusion.data.splits import groups_of
from conffusion.errors import PackageError
from conffusion.evaluation.drift import given_features, interval_features
from conffusion.inference.evidence import Evidence
from conffusion.inference.package import CalibratedOn, Package, PackageRecord, SamplingRecord
from conffusion.methods.protocols import PROTOCOLS
from conffusion.methods.registry import get_method
from conffusion.metrics import image_losses
from conffusion.store import SealedStore, open_store
from conffusion.tasks import build_task, portable_settings

_OVERLAP = 0.25  # of a tile
_MISSING = object()


def package_run(run: str | Path, task: str, method: str, protocol: str = "guaranteed", name: str = "") -> Package:
    """Package one calibrated method of a finished run.

    Args:
        run: The run's folder, `results/<run>`.
        task: Name of the task.
        method: Name of the method; of several fine-tuning runs the first.
        protocol: "guaranteed" or "paper".
        name: What to call the model; by default run, task and method.
    Raises:
        PackageError: If the run lacks it, or its scale does not control the risk.
        StoreError: If a result is missing or damaged; rerun the workflow.
    """
    run = Path(run)
    layout, config, rules = RunLayout(run), _RunSettings.of(run), PROTOCOLS.get(protocol)
    results = layout.results(task, method, protocol)
    record_file = results.calibration
    if rules is None or not record_file.is_file():
        raise PackageError(f"{record_file}: is missing; {_what_is_there(run)}")
    record = read_record(record_file)
    calibration = record.calibration
    if not record.feasible:
        raise PackageError(f"{record_file}: its scale does not control the risk, so it makes no package")
    bounds = open_store(results.bounds("calibration"))
    side = int(bounds["lower"].shape[-1])
    images = _images(layout, task, bounds)
    settings = portable_settings(task, config.get(f"tasks.{task}.degradation"))
    built = build_task(task, **settings)
    content = PackageRecord(
        version=__version__,
        name=name or f"{run.resolve().name} {task} {method}",
        task=task,
        degradation=settings,
        method=method,
        protocol=protocol,
        sorts_bounds=rules.sorts_bounds,
        seed=config.get("seed"),
        image_size=side,
        overlap=int(side * _OVERLAP) // built.factor * built.factor,
        # Where the precision was left to the machine, that of this one.
        bfloat16=select_device(config.get("device"), config.get("precision"), threads=None).bfloat16,
        sampling=_sampling(config) if get_method(method).is_sampled else None,
        calibration=calibration.to_dict(),
        family=calibration.family.to_dict(),
        calibrated_on=CalibratedOn(
            description=f"{config.get('dataset.name')}, run {config.get('run')}, split calibration",
            smallest=(side, side),
            largest=(side, side),
            masks="centre" if built.has_mask else "none",
            value_range=_value_range(config),
        ),
        provenance={
            "run": config.get("run"),
            "checkpoint_step": record.checkpoint_step,
            **_code_behind(images),
        },
    )
    evidence = _evidence(calibration, bounds, images, layout.splits)
    return Package(content, _weights(config, layout, task, results.model), evidence)


@dataclass(frozen=True)
class _RunSettings:
    """What a package needs of a run's configuration, be it of this version or of an earlier one.

    Attributes:
        values: All keys, as in the run's config.yaml.
    """

    values: Mapping[str, Any]

    @classmethod
    def of(cls, run: Path) -> "_RunSettings":
        file = RunLayout(run).config
        if not file.is_file():
            raise PackageError(f"{run}: has no config.yaml, so it is no run of the workflow; give results/<run>")
        return cls(read_yaml(file))

    def get(self, key: str) -> Any:
        """The value at a path of keys, `a.b.c`, or at one that it had in earlier versions."""
        former = [old + key.removeprefix(new) for old, new in RENAMED_KEYS.items() if f"{key}.".startswith(f"{new}.")]
        for path in (key, *former):
            value: Any = self.values
            for part in path.split("."):
                value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
            if value is not _MISSING:
                return value
        raise PackageError(f"config.yaml of run {self.values.get('run')}: has no {key}")


def _what_is_there(run: Path) -> str:
    files = run.glob(RunLayout(Path()).calibration("*", "*", "*").as_posix())
    found = sorted(file.parent.relative_to(run).as_posix() for file in files)
    if not found:
        return "the run has no calibrated method yet"
    return f"the run has {', '.join(found)} (task/method/protocol)"


def _images(layout: RunLayout, task: str, bounds: SealedStore) -> SealedStore:
    """The calibration images that the bounds are of: those of other networks' sizes lie beside them."""
    side = bounds["lower"].shape[-1]
    manifests = [layout.images(task, "calibration", folder) for folder in ("images", f"images-{side}")]
    for store in (open_store(manifest) for manifest in manifests if manifest.is_file()):
        if store["target"].shape[-1] == side and store.image_ids == bounds.image_ids:
            return store
    raise PackageError(f"{manifests[0]}: holds no calibration images of {side} pixels; rerun the workflow")


def _code_behind(images: SealedStore) -> dict[str, str]:
    """Name and checksum of the user's function that corrupted the images, where there is one; packages hold no code."""
    degradation = images.attributes["degradation"]
    if "function" not in degradation:
        return {}
    return {"corrupted_by": f"{Path(degradation['function']).name} (SHA-256 of the file `{degradation['sha256']}`)"}


def _value_range(config: _RunSettings) -> tuple[float, float] | None:
    """Sample values that stood for 0 and 1; None: by the type of the samples, as in runs of earlier versions."""
    dataset = config.get("dataset")
    given = dataset.get("folder", {}).get("value_range") if dataset["name"] == "folder" else None
    return None if given is None else (given[0], given[1])


def _sampling(config: _RunSettings) -> SamplingRecord:
    if config.get("sampling.adaptive_stopping.precision") is not None:
        raise PackageError(
            "sampling.adaptive_stopping stops drawing early, which packages cannot do: set its precision to null"
        )
    names = ("solver", "n_steps", "n_variants", "shared_start", "dtype")
    values = {name: config.get(f"sampling.{name}") for name in names}
    return SamplingRecord(**values, quantile=config.get("calibration.alpha") / 2)


def _evidence(calibration: Calibration, bounds: SealedStore, images: SealedStore, splits: Path) -> Evidence:
    lower, upper, target, mask = (
        np.asarray(array[:]) for array in (bounds["lower"], bounds["upper"], images["target"], images["mask"])
    )
    losses, _ = image_losses(*calibration.apply(lower, upper), target, mask)
    lower, upper, _ = sort_bounds(lower, upper)
    if calibration.shape is not None:
        lower, upper = calibration.shape.apply(lower, upper)
    given = given_features(images["condition"], None if mask.all() else 1 - mask)
    features = np.hstack([interval_features(lower.clip(0, 1), upper.clip(0, 1), mask), given])
    return Evidence.of(losses, features, groups_of(splits, bounds.image_ids))


def _weights(config: _RunSettings, layout: RunLayout, task: str, own: Path) -> bytes:
    """Of the method's own network, else of the task's prior, which lies in the run or is shipped with the project."""
    prior, shipped = layout.prior(config.get(f"tasks.{task}.prior")), config.get("priors_dir")
    project = layout.folder.resolve().parents[1]  # results/<run> lies in the folder in which Snakemake ran
    files = [own, prior, *([project / shipped / prior.name] if shipped else [])]
    for file in files:
        if file.is_file():
            return file.read_bytes()
    raise PackageError(f"{files[-1]}: the weights of {task} are missing; run the workflow in its own folder first")
