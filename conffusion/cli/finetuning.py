"""`conffusion finetune`: from a folder of clean images and a task to a calibrated model."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conffusion.cli.options import add_licence, licence_text, show_progress
from conffusion.errors import ConffusionError, ConfigError
from conffusion.methods.registry import METHODS

if TYPE_CHECKING:
    from conffusion.pipeline.own_model.request import Request

_SETTINGS = {"factor": "super_resolution", "hole": "inpainting", "sigma": "denoising"}


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "make a calibrated model of your own clean images"
    command = commands.add_parser(
        "finetune",
        help=purpose,
        description=purpose
        + ": checks everything, shows a plan with an estimate of time, asks, trains, calibrates, and "
        "checks the guarantee on images that took no part. The same command again goes on where it was interrupted.",
    )
    command.add_argument(
        "images", type=Path, help="folder, .zip or .tar of clean images: PNG, JPEG, TIFF, PGM, BMP, zarr"
    )
    command.add_argument("--output", type=Path, required=True, help="file to write, ending in .conffusion")
    command.add_argument("--name", default="", help="name of the model (default: that of the file)")
    _add_task(command)
    _add_images(command)
    _add_model(command)
    _add_execution(command)
    add_licence(command)
    command.set_defaults(run=_finetune)


def _add_task(command: argparse.ArgumentParser) -> None:
    task = command.add_mutually_exclusive_group(required=True)
    task.add_argument("--task", choices=tuple(_SETTINGS.values()), help="the corruption that the model undoes")
    task.add_argument(
        "--degradation", metavar="FILE.py:FUNCTION",
        help="your own function that corrupts one image instead: (C, H, W) float32 in [0, 1] and a "
        "numpy.random.Generator to an image of the same shape; the file is run",
    )  # fmt: skip
    command.add_argument("--factor", type=int, help="super_resolution: by how much a side is reduced (default: 4)")
    command.add_argument(
        "--hole", type=float, help="inpainting: side of the hole, as a share of a tile's (default: 0.5)"
    )
    command.add_argument(
        "--sigma", type=float, help="denoising: standard deviation, of the [0, 1] range (default: 0.1)"
    )


def _add_images(command: argparse.ArgumentParser) -> None:
    command.add_argument("--image-size", type=int, default=32, help="pixels a side that the network sees (default: 32)")
    command.add_argument(
        "--fit", default="tile", choices=("tile", "crop", "resize"),
        help="tile: cut into squares, at full resolution (default); crop, resize: shrunk to one square",
    )  # fmt: skip
    command.add_argument("--tile-size", type=int, help="pixels a side of a tile of the image (default: the image size)")
    command.add_argument("--max-tiles", type=int, default=16, help="tiles of one image, at most (default: 16)")
    group = command.add_mutually_exclusive_group()
    group.add_argument("--group-pattern", help="regular expression on file names; its part in brackets is the group")
    group.add_argument("--group-csv", type=Path, help="table with columns file, group")
    command.add_argument(
        "--value-range", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="sample values that stand for black and white (default: by the type of the samples)",
    )  # fmt: skip


def _add_model(command: argparse.ArgumentParser) -> None:
    methods = [name for name, method in METHODS.items() if not method.is_sampled]
    command.add_argument(
        "--method", choices=methods,
        help="default: n_conffusion where its network is shipped or trained anyway, else g_conffusion",
    )  # fmt: skip
    command.add_argument("--alpha", type=float, default=0.1, help="risk level (default: 0.1)")
    command.add_argument("--delta", type=float, default=0.1, help="error level (default: 0.1)")
    command.add_argument("--steps", type=int, help="steps of fine-tuning (default: that of config.yaml, 400)")


def _add_execution(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="CPU cores to use (default: all)")
    command.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute (default: auto)"
    )
    command.add_argument(
        "--workflow", type=Path, help="clone of conffusion (default: the current folder, or the package's)"
    )
    command.add_argument("--yes", action="store_true", help="go on without asking")
    command.add_argument("--plan-only", action="store_true", help="check, show the plan, write the settings, and end")


def _finetune(options: argparse.Namespace) -> str:
    if not (options.yes or options.plan_only or sys.stdin.isatty()):
        raise ConfigError("there is no terminal to ask on: add --yes to go on without a question, or --plan-only")
    licence = licence_text(options)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: as in the jobs that are timed here
    from conffusion.pipeline.own_model.planning import describe, describe_cost, find_workflow, prepare
    from conffusion.pipeline.own_model.request import write_overlay

    show_progress()
    request = _request(options)
    model = prepare(request, find_workflow(options.workflow))
    write_overlay(request.settings_file, model.overlay)
    print(describe(model), flush=True)
    with _quiet():
        print(describe_cost(model), flush=True)
    if options.plan_only:
        return f"nothing was run; {request.settings_file} holds the settings"
    if not options.yes and not _agreed():
        return f"nothing was run; {request.settings_file} holds the settings, and the same command asks again"
    from conffusion.pipeline.own_model.result import make

    try:
        outcome = make(model, licence)
    except KeyboardInterrupt:
        raise ConffusionError("interrupted; what is finished stays, and the same command goes on from there") from None
    return "\n".join([
        f"{request.output}: done (sha256 of its weights {outcome.sha256})",
        outcome.guarantee,
        f"On the test images, which took no part: {' '.join(outcome.verdict.split())}",
        "next:",
        f"  conffusion predict {request.output} NEW_IMAGES --output restored",
        f"  conffusion evaluate {request.output} --targets OTHER_CLEAN_IMAGES --output evaluated"
        if options.degradation is None
        else f"  conffusion evaluate {request.output} --images CORRUPTED --targets CLEAN --output evaluated",
        "  conffusion view restored",
    ])  # fmt: skip


def _request(options: argparse.Namespace) -> "Request":
    from conffusion.pipeline.own_model.request import Request, checked_degradation

    task = options.task or "custom"
    for setting, owner in _SETTINGS.items():
        if getattr(options, setting) is not None and owner != task:
            raise ConfigError(f"--{setting} belongs to --task {owner}; leave it out")
    settings = {name: getattr(options, name) for name, owner in _SETTINGS.items() if owner == task}
    defaults = {"factor": 4, "hole": 0.5, "sigma": 0.1}
    given = {name: defaults[name] if value is None else value for name, value in settings.items()}
    if options.degradation is not None:
        given = {"function": options.degradation}
    _check_numbers(options)
    return Request(
        images=options.images, task=task, degradation=checked_degradation(task, given), output=options.output,
        name=options.name, method=options.method, image_size=options.image_size, fit=options.fit,
        tile_size=options.tile_size, max_tiles=options.max_tiles, group_pattern=options.group_pattern,
        group_csv=options.group_csv, value_range=_value_range(options), alpha=options.alpha, delta=options.delta,
        steps=options.steps, device=options.device, cores=options.cores,
    )  # fmt: skip


def _value_range(options: argparse.Namespace) -> tuple[float, float] | None:
    if options.value_range is None:
        return None
    low, high = options.value_range
    if not low < high:
        raise ConfigError(f"--value-range {low:g} {high:g}: expected two numbers, LOW below HIGH")
    return low, high


def _check_numbers(options: argparse.Namespace) -> None:
    for name in ("image_size", "tile_size", "max_tiles", "steps", "cores"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    for name in ("alpha", "delta"):
        if not 0 < getattr(options, name) < 1:
            raise ConfigError(f"--{name} {getattr(options, name)}: must lie between 0 and 1")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress of what is only timed."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _agreed() -> bool:
    try:
        return input("Go on? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
