"""Is this machine ready for a run? Versions, device, files, checkpoints and disk, checked in seconds."""

import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

from conffusion.config.schema import RULE_FILLED, Config
from conffusion.core.device import select_device
from conffusion.data.splits import assign_splits
from conffusion.errors import ConffusionError
from conffusion.models.checkpoint import load_checkpoint
from conffusion.models.networks import load_prior
from conffusion.models.official import check_official
from conffusion.pipeline.checks import check_dealt, checked_plan
from conffusion.pipeline.plan import Plan
from conffusion.pipeline.stages.images import configured_dataset
from conffusion.pipeline.stages.importing import sha256
from conffusion.training.priors import architecture_of

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        subject: What was looked at.
        healthy: Whether a run can go on with it.
        detail: What was found and, if something is wrong, what to do.
    """

    subject: str
    healthy: bool
    detail: str


def examine(config: Config) -> Iterator[Finding]:
    """All checks, one after the other; a failed one does not keep the others from being made."""
    plan = Plan(config)
    yield _check("versions", _versions)
    yield _check("device", lambda: _device(config))
    yield _check("configuration", lambda: _configuration(config))
    if config.dataset.name == "folder":
        yield _check("images", lambda: _images(config, plan))
    for name in plan.used_priors:
        yield _check(f"prior {name}", lambda name=name: _prior(plan, name))  # type: ignore[misc]
    yield _check("disk", _disk)


def _check(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, look())
    except (ConffusionError, OSError) as error:
        return Finding(subject, False, str(error))


def _versions() -> str:
    """Installed versions of what the package needs.

    Raises:
        ConffusionError: Naming the first package that is missing or of an unfit version.
    """
    found = [f"Python {platform.python_version()}"]
    for text in metadata.requires("conffusion") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            raise ConffusionError(f"{requirement.name} is not installed: run `make setup`") from None
        if not requirement.specifier.contains(installed):
            raise ConffusionError(
                f"{requirement.name} {installed} is installed, but {text} is needed: run `make setup`"
            )
        found.append(f"{requirement.name} {installed}")
    return ", ".join(found)


def _device(config: Config) -> str:
    device = select_device(config.device, config.precision, config.threads)
    precision = "bfloat16" if device.bfloat16 else "float32"
    if device.torch_device.type == "cpu":
        return f"CPU, {precision}; torch {torch.__version__} sees no CUDA device"
    properties = torch.cuda.get_device_properties(device.torch_device)
    return f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / GIB:.0f} GiB each, {precision}"


def _configuration(config: Config) -> str:
    plan = checked_plan(config)
    return f"valid: tasks {', '.join(plan.tasks)}; methods {', '.join(plan.method_runs)}"


def _images(config: Config, plan: Plan) -> str:
    """Images and groups of every split, after the header of every file has been read.

    Raises:
        ConffusionError: If an image is unreadable, a group is missing, or there are too few.
    """
    dataset = configured_dataset(config.dataset, plan.largest_image_size, config.seed)
    splits = assign_splits(dataset.table(), config.dataset.splits.model_dump(), config.seed)
    counts = check_dealt(splits, config.calibration)
    return f"{config.dataset.folder.path}: " + ", ".join(
        f"{split} {n_images:,} in {n_groups:,} groups" for split, (n_images, n_groups) in counts.items()
    )


def _prior(plan: Plan, name: str) -> str:
    """Whether a prior's file is what the configuration says; official files by the names and shapes in them."""
    prior = plan.config.priors[name]
    if prior.checkpoint == RULE_FILLED:
        return "weights filled by a rule: good for trying, not for results"
    if prior.checkpoint:
        with torch.device("meta"):
            network = architecture_of(prior).build_prior()
        check_official(network, prior.checkpoint)
        return f"{prior.checkpoint}: names and shapes fit; sha256 {sha256(prior.checkpoint)}"
    path = Path(plan.prior_path(name))
    if plan.config.priors_dir is None and not path.is_file():
        return "will be trained in the run"
    load_prior(path, architecture_of(prior))
    return f"{path}: fits, weights intact ({load_checkpoint(path)[1].get('source', 'trained by this project')})"


def _disk() -> str:
    free = shutil.disk_usage(".").free
    detail = f"{free / GIB:.0f} GiB free here; `conffusion estimate` says what the run needs"
    if free < GIB:
        raise ConffusionError(f"{detail}; less than 1 GiB is not enough for any run: make room")
    return detail
