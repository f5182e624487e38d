"""What `conffusion finetune` will do, checked before any work: splits, network, guarantee, time."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conffusion.calibration.guarantee import Guarantee
from conffusion.config import Config, parse_config, read_yaml
from conffusion.config.schema import CalibrationSettings
from conffusion.core.choices import UnitName
from conffusion.core.layout import RunLayout
from conffusion.core.progress import format_duration
from conffusion.data.folder import FolderDataset
from conffusion.data.splits import assign_splits
from conffusion.errors import ConfigError
from conffusion.images.listing import output_names
from conffusion.methods.registry import METHODS
from conffusion.pipeline.checks import check_dealt, checked_plan, units_needed
from conffusion.pipeline.own_model.request import (
    Request,
    method_of_request,
    overlay_of,
    planned_config,
)
from conffusion.pipeline.plan import Plan
from conffusion.pipeline.stages.images import configured_dataset
from conffusion.tasks import build_task

SHARES = {"finetune": 0.4, "selection": 0.15, "calibration": 0.25, "test": 0.2}
_LEAST_FOR_FITTING = 0.25  # of the groups
_TRIED_IMAGES = 2  # on which a degradation is tried
_SEEN_IMAGES = 16  # whose values are looked at
_UNTIMED_JOBS = 8  # Snakemake, config, splits, calibration, evaluation, package: most load the libraries and are done
_STREAMED_BYTES = 25  # per pixel value of whole images that are calibrated
_TILE_AREA = 0.75**2  # that a tile adds to those before it: neighbours share a quarter of their side
GIB = 2**30


@dataclass(frozen=True)
class OwnModel:
    """A request that has been checked.

    Attributes:
        request: What the user wants.
        workflow: Folder of the workflow.
        method: Name of the method.
        overlay: What is laid over the workflow's config.yaml.
        config: The merged configuration.
        splits: image_id, group, source and split of every image.
        sizes: (height, width) of every image in each file of the splits calibration and test, by its path below the
            folder.
        whole: Whether the model is calibrated once more, on whole images put together from tiles.
        warnings: Kinds of warnings about values, with their number among the images looked at.
    """

    request: Request
    workflow: Path
    method: str
    overlay: dict[str, Any]
    config: Config
    splits: pd.DataFrame
    sizes: Mapping[str, Sequence[tuple[int, int]]]
    whole: bool
    warnings: Mapping[str, int]

    @property
    def run_folder(self) -> Path:
        """Where the workflow leaves its results."""
        return self.workflow / "results" / self.config.run

    @property
    def trained_prior(self) -> str | None:
        """Name of the prior that the run trains, if it does."""
        plan = Plan(self.config)
        return plan.prior_name(self.request.task, self.method) if self.config.priors_dir is None else None

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every image of the splits calibration and test."""
        return [size for sizes in self.sizes.values() for size in sizes]

    def files(self, split: str) -> list[str]:
        """Image files of a split, as sorted paths below the folder."""
        return sorted(set(self.splits.loc[self.splits["split"] == split, "source"]))


def find_workflow(given: Path | None) -> Path:
    """Folder of the workflow: the one given, else the current one, else that of an editable installation.

    Raises:
        ConfigError: If it is none of these.
    """
    if given is not None and not _is_workflow(given):
        raise ConfigError(f"--workflow {given}: holds no Snakefile and config.yaml of conffusion; give a clone of it")
    candidates = [given] if given is not None else [Path.cwd(), Path(__file__).parents[3]]
    found = next((folder for folder in candidates if _is_workflow(folder)), None)
    if found is None:
        raise ConfigError(
            "the workflow that trains models is not installed with the package: clone conffusion, and name the clone "
            "with --workflow DIR, or run this command in it"
        )
    return found.resolve()


def _is_workflow(folder: Path) -> bool:
    parts = ("Snakefile", "config.yaml", "rules/finetune.smk", "workflow_scripts/finetune_method.py")
    return all((folder / part).is_file() for part in parts)


def prepare(request: Request, workflow: Path) -> OwnModel:
    """Check everything that can be checked before work starts.

    Raises:
        ConffusionError: If images, groups, settings or files do not suffice; says what to do.
    """
    _check_paths(request)
    base_values = read_yaml(workflow / "config.yaml")
    base = parse_config(base_values, source=str(workflow / "config.yaml"))
    method = method_of_request(request, base)

    def configure(splits: dict[str, float]) -> tuple[dict[str, Any], Config]:
        overlay = overlay_of(request, base, method, splits)
        return overlay, parse_config(planned_config(overlay, base_values, workflow), source="conffusion finetune")

    _, config = configure(SHARES)
    checked_plan(config)
    dataset = configured_dataset(config.dataset, request.image_size, config.seed)
    assert isinstance(dataset, FolderDataset)
    table = dataset.table()
    overlay, config = configure(choose_shares(table, config.calibration))
    splits = assign_splits(table, config.dataset.splits.model_dump(), config.seed)
    check_dealt(splits, config.calibration)
    _check_run(workflow / "results" / config.run, config)
    seen = splits["image_id"].iloc[:: max(1, len(splits) // _SEEN_IMAGES)]
    images, warnings = dataset.load_with_warnings(list(seen))
    _try_degradation(request, config, images[:_TRIED_IMAGES])
    judged = sorted(set(splits.loc[splits["split"].isin(("calibration", "test")), "source"]))
    sizes = dict(zip(judged, dataset.sizes(judged), strict=True))
    whole = _wants_whole(request, sizes)
    return OwnModel(request, workflow, method, overlay, config, splits, sizes, whole, warnings)


def choose_shares(table: pd.DataFrame, settings: CalibrationSettings) -> dict[str, float]:
    """Share of the groups for every split; with few groups, those that calibrate get as many as they must have.

    Raises:
        ConfigError: If too few would be left to fit a network.
    """
    n_groups, needed = table["group"].nunique(), units_needed(settings)
    least = (needed + 0.5) / n_groups  # half a group, so that rounding takes none away
    shares = {**SHARES, **{split: max(SHARES[split], least) for split in ("selection", "calibration")}}
    shares["finetune"] = 1 - sum(share for split, share in shares.items() if split != "finetune")
    if shares["finetune"] < _LEAST_FOR_FITTING:
        enough = math.ceil(2 * (needed + 0.5) / (1 - _LEAST_FOR_FITTING - SHARES["test"]))
        what = f"groups ({len(table)} images)" if n_groups < len(table) else "images"
        raise ConfigError(
            f"{n_groups} {what} are too few for --alpha {settings.alpha:g} --delta "
            f"{settings.delta:g}: the splits that choose and calibrate need {needed} each, and about {enough} in all. "
            "Give more images, or a larger alpha or delta"
        )
    return {split: round(shares[split], 4) for split in SHARES}


def _check_paths(request: Request) -> None:
    output = request.output
    if not request.images.exists():
        raise ConfigError(f"{request.images}: no such folder or archive of images")
    if output.suffix != ".conffusion":
        raise ConfigError(f"--output {output}: must end in .conffusion")
    if output.is_dir():
        raise ConfigError(f"--output {output}: is a folder; give the file to write")
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}; make it first")


def _check_run(folder: Path, config: Config) -> None:
    """Refuse to write over a run of other images."""
    settings = RunLayout(folder).config
    if not settings.is_file():
        return
    there = read_yaml(settings).get("dataset", {}).get("folder", {}).get("path")
    if there != config.dataset.folder.path:
        raise ConfigError(
            f"{folder}: is a run of other images ({there}); give --output another file name, or remove that folder"
        )


def _try_degradation(request: Request, config: Config, images: Any) -> None:
    """The task on real images, twice: what is random must follow from the generator alone."""
    task = build_task(request.task, **request.degradation)
    names = [f"image {k + 1}" for k in range(len(images))]
    first, second = (task.apply(images, names, config.seed)[0] for _ in range(2))
    if not np.array_equal(first, second):
        raise ConfigError(
            f"{request.degradation.get('function', request.task)}: corrupts the same image differently with the same "
            "generator; take all random numbers from the generator that the function is given"
        )


def _wants_whole(request: Request, sizes: Mapping[str, Sequence[tuple[int, int]]]) -> bool:
    """Whether predictions of the images' own size are what the model will be used for, and differ from single tiles.

    Raises:
        DataError: If two files have names that differ in their suffix alone.
    """
    at_own_scale = request.fit == "tile" and request.tile_size in (None, request.image_size)
    are_tiles = all(set(of_file) == {2 * (request.image_size,)} for of_file in sizes.values())
    if not at_own_scale or not request.images.is_dir() or are_tiles:
        return False
    output_names(request.images / file for file in sizes)
    return True


def describe(model: OwnModel) -> str:
    """The plan in words, with an estimate of time from the real code timed here."""
    request, config = model.request, model.config
    tuned = config.finetuning.tuned[request.task][model.method]
    label = build_task(request.task, **request.degradation).label
    settings = ", ".join(f"{key} {value}" for key, value in request.degradation.items())
    side = request.image_size
    written = f"{request.settings_file} (all settings), {model.run_folder} (results), {request.output} (the model)"
    rows = [
        ("images", f"{_counted(model.splits)}, {side}x{side} pixels (--fit {request.fit})"),
        *((f"  {split}", f"{_counted(model.splits, split)}, {purpose}") for split, purpose in _PURPOSES.items()),
        ("network", _network(model)),
        ("training", f"{tuned.n_steps} steps of {config.finetuning.batch_size} images"),
        ("calibration", _calibration(model)),
        ("guarantee", str(_guarantee(model))),
        ("writes", written),
        *(("note", note) for note in _notes(model)),
    ]
    title = f"Plan: {label.lower()} ({settings}) with {METHODS[model.method].label}, from {request.images}"
    return "\n".join([title, *(_row(*row) for row in rows)])


_PURPOSES = {
    "finetune": "fit the network",
    "selection": "choose the training step and the set family",
    "calibration": "find the scale of the intervals, and nothing else",
    "test": "measure whether the risk is controlled",
}


def _row(name: str, text: str) -> str:
    return f"  {name:<14}{text}"


def _counted(splits: pd.DataFrame, split: str | None = None) -> str:
    rows = splits if split is None else splits[splits["split"] == split]
    has_parts = splits["group"].nunique() < len(splits)
    groups = f" in {rows['group'].nunique():,} groups" if has_parts else ""
    return f"{len(rows):,} images{groups}"


def _network(model: OwnModel) -> str:
    name = Plan(model.config).prior_name(model.request.task, model.method)
    kind = model.config.priors[name].network
    if model.trained_prior is None:
        how = f"from the shipped {name}" if METHODS[model.method].pretrained else "from fresh weights"
        return f"{kind}, {how}"
    training = model.config.priors[name].training
    n_steps = training.n_steps if training else 0
    return f"{kind}, none is shipped for this: first trained on the split finetune ({n_steps} steps)"


def _calibration(model: OwnModel) -> str:
    if not model.whole:
        return f"on images of {model.request.image_size}x{model.request.image_size} pixels"
    heights, widths = zip(*model.image_sizes, strict=True)
    largest = f"{max(widths)}x{max(heights)}"
    return f"on whole images (up to {largest} pixels), put together from tiles as `conffusion predict` does"


def _guarantee(model: OwnModel) -> Guarantee:
    """What calibration will guarantee; a whole image counts once, however many tiles it has."""
    judged = model.splits[model.splits["split"].isin(("calibration", "test"))]
    n_images = len(model.image_sizes) if model.whole else len(judged)
    unit: UnitName = "group" if judged["group"].nunique() < n_images else "image"
    return Guarantee(model.request.alpha, model.request.delta, unit, ucb=model.config.calibration.ucb)


def _notes(model: OwnModel) -> list[str]:
    request, side = model.request, model.request.image_size
    shorter = float(np.median([min(size) for size in model.image_sizes]))
    seen = (request.tile_size or side) if request.fit == "tile" else shorter
    notes = [f"values of {count} of the images looked at: {warning}" for warning, count in model.warnings.items()]
    if seen > side:
        notes.append(
            f"the model will know images shrunk {seen / side:.3g} times, but `conffusion predict` works on images as "
            "they are: shrink new images likewise, or leave --fit and --tile-size out"
        )
    if METHODS[model.method].target == "sampled_bounds":
        notes.append("this method is fitted to sampled intervals, and sampling takes most of the time")
    return notes


def describe_cost(model: OwnModel) -> str:
    """What the run will cost on this machine: some seconds of timing the real code.

    Raises:
        ConfigError: If the device is not there, or the disk is too full.
    """
    from conffusion.pipeline.estimate import JOB_START, Estimate

    counts = model.splits["split"].value_counts().to_dict()
    costs = [cost for cost in Estimate(model.config, counts).costs() if cost.stage != "trace_candidates"]
    seconds = {cost.stage: cost.hours * 3600 for cost in costs}
    seconds["other jobs"] = _UNTIMED_JOBS * JOB_START
    disk = sum(cost.disk_gib for cost in costs)
    if model.whole:
        (prediction,) = [cost for cost in costs if cost.stage == "predict_bounds"]
        pixels = sum(height * width for height, width in model.image_sizes)
        n_tiles = pixels / (model.request.image_size**2 * _TILE_AREA)
        seconds["whole images"] = prediction.hours * 3600 / prediction.forward_passes * n_tiles
        disk += _whole_gib(model)
    free = shutil.disk_usage(model.workflow).free / GIB
    if disk > free:
        raise ConfigError(f"{model.workflow}: {disk:.1f} GiB are needed and {free:.1f} GiB free; make room first")
    parts = ", ".join(f"{name.replace('_', ' ')} {format_duration(value)}" for name, value in seconds.items())
    total = format_duration(sum(seconds.values()))
    time = _row("time", f"about {total} on this machine as busy as now: {parts}")
    return f"{time}\n{_row('disk', f'at most {disk:.1f} GiB, of {free:.0f} GiB free')}"


def _whole_gib(model: OwnModel) -> float:
    """Values of all images of one split at a time, padded to the largest."""
    largest = max(height * width for height, width in model.image_sizes)
    n_images = max(sum(len(model.sizes[file]) for file in model.files(split)) for split in ("calibration", "test"))
    return n_images * 3 * largest * _STREAMED_BYTES / GIB
