"""From the results of a run to the package: whole images calibrated where they are tiled, the guarantee checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from conffusion.calibration import CalibrationOptions, read_calibration
from conffusion.core.layout import RunLayout
from conffusion.data.splits import groups_of
from conffusion.evaluation.verdicts import evaluation_verdict, measure_risk
from conffusion.images.listing import list_images, output_names
from conffusion.inference.commands import MODEL, calibrate_package, evaluate_package
from conffusion.inference.from_run import package_run
from conffusion.inference.model_file import read_package, write_package
from conffusion.inference.package import Package
from conffusion.inference.predictor import Predictor
from conffusion.inference.reader import Reader, ReadingOptions, open_reader
from conffusion.metrics import image_losses
from conffusion.pipeline.own_model.planning import OwnModel
from conffusion.pipeline.own_model.running import run_workflow
from conffusion.store import open_store

_PROTOCOL = "guaranteed"


@dataclass(frozen=True)
class Outcome:
    """What came of a request.

    Attributes:
        sha256: Checksum of the weights.
        guarantee: In words.
        verdict: Whether the risk is controlled on the test images, in words.
    """

    sha256: str
    guarantee: str
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
    return Outcome(write_package(package, request.output, licence), str(package.guarantee), verdict)


def _on_whole_images(model: OwnModel, package: Package, licence: str) -> tuple[Package, str]:
    """Calibrate and judge predictions of whole images, which are put together from tiles."""
    request, folder = model.request, model.run_folder / "whole_images"
    options = CalibrationOptions(request.alpha, request.delta, ucb=model.config.calibration.ucb)
    description = f"whole images of {request.images.name}, split calibration of run {model.config.run}"
    calibrate_package(
        Predictor(package, request.device, threads=request.cores), whole_images(model, package, "calibration"), options,
        folder / "calibration", description=description, licence=licence,
    )  # fmt: skip
    package = read_package(folder / "calibration" / MODEL)
    predictor, test = Predictor(package, request.device, threads=request.cores), whole_images(model, package, "test")
    return package, evaluate_package(predictor, test, folder / "test", pictures=False)


def whole_images(model: OwnModel, package: Package, split: str) -> Reader:
    """The image files of a split with the groups of the run."""
    request = model.request
    files: Sequence[Path] = [request.images.resolve() / file for file in model.files(split)]
    reader = open_reader(package, [], files, ReadingOptions(value_range=request.value_range))
    rows = model.splits.drop_duplicates("source").set_index("source")["group"]
    file_of = {name: file for file, name in output_names(list_images(files)).items()}
    groups = [
        rows[
            file_of.get(name, file_of.get(name.rpartition("/")[0], Path()))
            .relative_to(request.images.resolve())
            .as_posix()
        ]
        for name in reader.names
    ]
    return replace(reader, groups=np.array(groups) if len(set(groups)) < len(groups) else None)


def _verdict(model: OwnModel) -> str:
    """Whether the risk is controlled on the run's own test images."""
    layout, task = RunLayout(model.run_folder), model.request.task
    results = layout.results(task, model.method, _PROTOCOL)
    bounds, images = open_store(results.bounds("test")), open_store(layout.images(task, "test"))
    calibration = read_calibration(results.calibration)
    lower, upper = calibration.apply(bounds["lower"][:], bounds["upper"][:])
    losses, _ = image_losses(lower, upper, images["target"][:], images["mask"][:])
    groups = groups_of(layout.splits, images.image_ids)
    return evaluation_verdict(measure_risk(losses, groups), calibration.alpha)
