"""Commands about a configuration of the workflow: check, doctor, estimate."""

import os
from typing import Any

from conffusion.calibration.guarantee import Guarantee
from conffusion.cli.options import add_configfile
from conffusion.config import load_config
from conffusion.config.schema import Config
from conffusion.errors import ConffusionError
from conffusion.methods.registry import get_method
from conffusion.pipeline.checks import check_dealt, checked_plan
from conffusion.pipeline.plan import Plan


def add(commands: Any) -> None:
    """Add the commands."""
    for name, run, purpose in (
        ("check", describe, "check a configuration and show what a run of it would do"),
        ("doctor", _doctor, "check versions, device, files, checkpoints and disk, and show how to fix what is wrong"),
        ("estimate", _estimate, "estimate time, disk and memory of a run, from the real code timed on this machine"),
    ):
        command = commands.add_parser(name, help=purpose, description=purpose)
        add_configfile(command)
        command.set_defaults(run=lambda options, run=run: run(load_config("config.yaml", *options.configfile)))


def _doctor(config: Config) -> str:
    """All findings; raises when one of them would stop a run."""
    from conffusion.pipeline.doctor import examine

    findings = list(examine(config))
    text = "\n".join(f"{'ok  ' if one.healthy else 'FAIL'}  {one.subject}: {one.detail}" for one in findings)
    if all(one.healthy for one in findings):
        return text
    raise ConffusionError(f"not ready for run {config.run}\n{text}")


def _estimate(config: Config) -> str:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: as in the jobs that are timed here
    from conffusion.pipeline.estimate import estimate_text

    return estimate_text(config, _split_sizes(config))


def _split_sizes(config: Config) -> dict[str, int]:
    """Images of every split; where shares are asked for, the images are dealt to count them."""
    sizes = config.dataset.splits.model_dump()
    if all(size >= 1 for size in sizes.values()):
        return {split: int(size) for split, size in sizes.items()}
    return {split: n_images for split, (n_images, _) in _dealt(config).items()}


def _dealt(config: Config) -> dict[str, tuple[int, int]]:
    """Images and groups of every split, after the header of every image has been read.

    Raises:
        ConffusionError: If an image is unreadable, or there are too few to calibrate.
    """
    from conffusion.data.splits import assign_splits
    from conffusion.pipeline.stages.images import configured_dataset

    table = configured_dataset(config.dataset, Plan(config).largest_image_size, config.seed).table()
    splits = assign_splits(table, config.dataset.splits.model_dump(), config.seed)
    return check_dealt(splits, config.calibration)


def describe(config: Config) -> str:
    """What a run of the configuration would do, in words.

    Raises:
        ConfigError: If it cannot run.
    """
    plan = checked_plan(config)
    sampling, counts = config.sampling, _dealt(config)
    methods = ", ".join(get_method(name).label for name in config.methods)
    has_groups = any(n_groups < n_images for n_images, n_groups in counts.values())
    calibration = config.calibration
    guarantee = Guarantee(calibration.alpha, calibration.delta, "group" if has_groups else "image", ucb=calibration.ucb)
    return "\n".join([
        f"run {config.run}: the configuration is valid",
        f"images: {config.dataset.name}, {plan.largest_image_size} pixels; "
        + ", ".join(f"{split} {n_images} in {n_groups} groups" for split, (n_images, n_groups) in counts.items()),
        f"tasks: {', '.join(plan.tasks)}",
        f"methods: {methods}; {config.replicates} fine-tuning run(s) of each trained one",
        f"DM_SB: {sampling.n_variants} variants per image, {sampling.solver}",
        f"guarantee: {guarantee}",
    ])  # fmt: skip
