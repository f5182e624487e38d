"""From the results of a run to the package: whole images calibrated where they are tiled, the promise checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from conffusion.calibration.record import read_calibration
from conffusion.core.layout import RunLayout
from conffusion.data.splits import groups_of
from conffusion.evaluation.verdicts import evaluation_verdict, measure_risk
from conffusion.images.listing import list_images, output_names
from conffusion.inference.calibrating import MODEL, Promise, calibrate_package
from conffusion.inference.card import promise_in_words
from conffusion.inference.evaluating import evaluate_package
from conffusion.inference.from_run import package_run
from conffusion.inference.inputs import InputOptions, Inputs, gather
from conffusion.inference.model_file import read_package, write_package
from conffusion.inference.package import Package
from conffusion.inference.predictor import Predictor
from conffusion.metrics import image_losses
from conffusion.pipeline.own_model.planning import OwnModel
from conffusion.pipeline.own_model.running import run_workflow
from conffusion.store import open_store
from conffusion.tasks import build_task

_PROTOCOL = "guaranteed"


@dataclass(frozen=True)
class Outcome:
    """What came of a request.

    Attributes:
        sha256: Checksum of the weights.
        promise: In words.
        verdict: Whether the promise is kept on the test images, in words.
    """

    sha256: str
    promise: str
    verdict: str


def make(model: OwnModel, licence: str) -> Outcome:
    """Run the workflow as far as one method needs it, and write the package.

    Raises:
        ConffusionError: If a job fails or the user interrupts; the same call goes on.
    """
    request, layout = model.request, RunLayout.of(model.config.run)
    results = layout.results(request.task, model.method, _PROTOCOL)
    targets = [str(file) for file in (layout.config, results.calibration, results.metrics)]
    run_workflow(model.workflow, model.config.run, targets, request.settings_file.resolve(), request.cores)
    package = package_run(
        model.run_folder, request.task, model.method, _PROTOCOL, name=request.name or request.output.stem
    )
    if model.whole:
        package, verdict = _on_whole_images(model, package, licence)
    else:
        verdict = _verdict(model)
    return Outcome(write_package(package, request.output, licence), promise_in_words(package), verdict)


def _on_whole_images(model: OwnModel, package: Package, licence: str) -> tuple[Package, str]:
    """Calibrate and judge predictions of whole images, which are put together from tiles."""
    request, folder = model.request, model.run_folder / "whole_images"
    device, promise = request.device, Promise(request.alpha, request.delta, model.config.calibration.ucb)
    description = f"whole images of {request.images.name}, split calibration of run {model.config.run}"
    calibrate_package(
        Predictor(package, device, threads=request.cores), whole_images(model, "calibration"), promise,
        folder / "calibration", description=description, licence=licence,
    )  # fmt: skip
    package = read_package(folder / "calibration" / MODEL)
    predictor = Predictor(package, device, threads=request.cores)
    return package, evaluate_package(predictor, whole_images(model, "test"), folder / "test", pictures=False)


def whole_images(model: OwnModel, split: str) -> Inputs:
    """The image files of a split with the groups of the run."""
    request = model.request
    files: Sequence[Path] = [request.images.resolve() / file for file in model.files(split)]
    task = build_task(request.task, **request.degradation)
    inputs = gather(
        task, model.config.seed, [], files, InputOptions(value_range=request.value_range), request.image_size
    )
    rows = model.splits.drop_duplicates("source").set_index("source")["group"]
    file_of = {name: file for file, name in output_names(list_images(files)).items()}
    groups = [
        rows[
            file_of.get(name, file_of.get(name.rpartition("/")[0], Path()))
            .relative_to(request.images.resolve())
            .as_posix()
        ]
        for name in inputs.names
    ]
    return replace(inputs, groups=np.array(groups) if len(set(groups)) < len(groups) else None)


def _verdict(model: OwnModel) -> str:
    """Whether the promise is kept on the run's own test images."""
    layout, task = RunLayout(model.run_folder), model.request.task
    results = layout.results(task, model.method, _PROTOCOL)
    bounds, images = open_store(results.bounds("test")), open_store(layout.images(task, "test"))
    calibration = read_calibration(results.calibration)
    lower, upper = calibration.apply(bounds["lower"][:], bounds["upper"][:])
    losses, _ = image_losses(lower, upper, images["target"][:], images["mask"][:])
    groups = groups_of(layout.splits, images.image_ids)
    return evaluation_verdict(measure_risk(losses, groups), calibration.alpha)
