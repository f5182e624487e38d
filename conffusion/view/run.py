"""The test images of a run of the workflow, with the calibrated intervals of its methods."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from conffusion.calibration import Calibration
from conffusion.calibration.record import read_calibration
from conffusion.config import read_yaml
from conffusion.core.arrays import FloatArray, iterate_blocks
from conffusion.core.layout import ResultFolder, RunLayout
from conffusion.data.splits import groups_of
from conffusion.errors import DataError
from conffusion.evaluation.drift import Drift, check_drift, interval_features
from conffusion.methods.protocols import PROTOCOLS
from conffusion.methods.registry import METHODS, get_method
from conffusion.metrics import image_losses
from conffusion.pipeline.stages.calibration import matching_stores
from conffusion.store import SealedStore, open_store, read_array, read_json
from conffusion.tasks import TASKS, build_task
from conffusion.view.gallery import Gallery, Prediction, Side, ViewedImage

FIRST_METHOD = "n_conffusion"  # the method that a page starts with, where it is there
_BLOCK_IMAGES = 64


def is_run(path: str | Path) -> bool:
    """Whether a folder is a run of the workflow, results/<run>."""
    layout = RunLayout(Path(path))
    return layout.config.is_file() and layout.splits.is_file()


def open_run(
    path: str | Path, *, task: str | None = None, methods: Sequence[str] = (), protocol: str = "guaranteed"
) -> Gallery:
    """The test images of a run.

    Args:
        path: results/<run>.
        task: Name of the task; None: the first one that is there.
        methods: Names of methods, as their folders are called; empty: all that are there.
        protocol: Name of the protocol.
    Raises:
        DataError: If the task, a method or the protocol is not there, or two methods saw images of different size.
        StoreError: If a file of the run is missing or damaged.
    """
    run, layout = Path(path), RunLayout(Path(path))
    if protocol not in PROTOCOLS:
        raise DataError(f"--protocol {protocol}: must be one of {', '.join(PROTOCOLS)}")
    task = _task(run, task)
    method_runs = [_open_method_run(folder, layout.splits) for folder in _folders(layout, task, methods, protocol)]
    images = method_runs[0].images
    alike = [method_run for method_run in method_runs if method_run.images.path == images.path]
    if methods and len(alike) < len(method_runs):
        raise DataError(f"{run / task}: {', '.join(methods)} saw images of different sizes; view them one by one")
    n_channels, height, width = images["target"].shape[1:]
    return Gallery(
        title=f"run {read_yaml(layout.config).get('run', run.name)}, {build_task(task).label}",
        sides=tuple(method_run.side for method_run in alike),
        shapes=((height, width),) * len(images.image_ids),
        bytes_per_pixel=n_channels * (4 * len(alike) + 4),  # 16-bit bounds, 16-bit truth and input
        images=partial(_images, alike),
        notes=("These are the test images, which took no part in training or calibration.",)
        + tuple(
            f"{method_run.side.label} saw images of another size: see --method."
            for method_run in method_runs
            if method_run not in alike
        ),
    )


@dataclass(frozen=True)
class _MethodRun:
    """A method of the run, with its bounds on the test images."""

    side: Side
    calibration: Calibration
    bounds: SealedStore
    images: SealedStore
    drift_p_values: FloatArray


def _task(run: Path, wanted: str | None) -> str:
    there = [name for name in TASKS if (run / name).is_dir()]
    if not there:
        raise DataError(f"{run}: holds no task; run `snakemake` with its configuration first")
    if wanted is not None and wanted not in there:
        raise DataError(f"--task {wanted}: {run} has {', '.join(there)}")
    return wanted or there[0]


def _folders(layout: RunLayout, task: str, wanted: Sequence[str], protocol: str) -> list[ResultFolder]:
    """Folders of the calibrated methods, the one to start with first."""
    folder = layout.folder / task
    pattern = layout.calibration(task, "*", protocol).relative_to(folder)
    method_runs = {path.parents[1].name: ResultFolder(path.parent) for path in folder.glob(str(pattern))}
    if not method_runs:
        raise DataError(f"{folder}: no method is calibrated under the protocol {protocol}; finish the run first")
    for name in wanted:
        if name not in method_runs:
            raise DataError(f"--method {name}: {folder} has {', '.join(method_runs)} under the protocol {protocol}")
    order = [FIRST_METHOD, *METHODS]
    names = list(wanted) or sorted(method_runs, key=lambda name: (order.index(_method_of(name)), name))
    return [method_runs[name] for name in names]


def _method_of(method_run: str) -> str:
    """Method of an method_run: n_conffusion of n_conffusion-r1."""
    return get_method(method_run.partition("-r")[0]).name


def _open_method_run(folder: ResultFolder, splits: Path) -> _MethodRun:
    calibration, metrics = read_calibration(folder.calibration), read_json(folder.metrics)
    stores = {split: _stores(folder, split) for split in ("calibration", "test")}
    drift = _drift(stores["calibration"], stores["test"], splits)
    bounds, images = stores["test"]
    warning = drift.warning()
    side = Side(
        label=_label(metrics),
        protocol=folder.path.name,
        alpha=calibration.alpha,
        delta=calibration.delta,
        lambda_hat=calibration.lambda_hat,
        unit=calibration.unit,
        n=calibration.n,
        n_images=calibration.n_images,
        estimate="midpoint",
        drift_p_value=drift.p_value,
        warnings=() if warning is None else (warning,),
    )
    return _MethodRun(side, calibration, bounds, images, drift.image_p_values)


def _label(metrics: Mapping[str, Any]) -> str:
    method, replicate = get_method(metrics["method"]), metrics["replicate"]
    variants = f" (J = {metrics['n_variants']})" if method.is_sampled else ""
    return f"{method.label}{variants}" + (f", run {replicate + 1}" if replicate else "")


def _stores(results: ResultFolder, split: str) -> tuple[SealedStore, SealedStore]:
    """Bounds of a method and the images it saw: those of a size other than the task's have their own folder."""
    bounds = results.bounds(split)
    shape = open_store(bounds)["lower"].shape
    for images in sorted(results.path.parents[1].glob(f"images*/{bounds.name}")):
        if open_store(images)["target"].shape == shape:
            return matching_stores(bounds, images)
    raise DataError(f"{bounds}: its images are not there; run `snakemake` with the configuration of this run again")


def _drift(reference: tuple[SealedStore, SealedStore], new: tuple[SealedStore, SealedStore], splits: Path) -> Drift:
    features, groups = [], []
    for bounds, images in (reference, new):
        features.append(interval_features(bounds["lower"], bounds["upper"], images["mask"]))
        groups.append(groups_of(splits, images.image_ids))
    return check_drift(*features, reference_groups=groups[0], new_groups=groups[1])


def _images(method_runs: Sequence[_MethodRun]) -> Iterator[ViewedImage]:
    images = method_runs[0].images
    for rows in iterate_blocks(len(images.image_ids), _BLOCK_IMAGES):
        given, target, mask = (read_array(images[name], rows) for name in ("condition", "target", "mask"))
        predictions = [_predictions(method_run, rows, target, mask) for method_run in method_runs]
        for k, name in enumerate(images.image_ids[rows]):
            judged = mask[k].any(axis=0)
            yield ViewedImage(
                name=name,
                predictions=tuple(one[k] for one in predictions),
                given=given[k],
                target=target[k],
                mask=None if judged.all() else judged,
            )


def _predictions(method_run: _MethodRun, rows: slice, target: FloatArray, mask: FloatArray) -> list[Prediction]:
    lower, upper = method_run.calibration.apply(
        read_array(method_run.bounds["lower"], rows), read_array(method_run.bounds["upper"], rows)
    )
    risks, sizes = image_losses(lower, upper, target, mask)
    return [
        Prediction(
            lower[k], upper[k], None, float(risks[k]), float(sizes[k]), float(method_run.drift_p_values[rows.start + k])
        )
        for k in range(len(lower))
    ]
