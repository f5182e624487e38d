"""The command line: `conffusion --help`."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conffusion import __version__
from conffusion.config import load_config
from conffusion.config.schema import Config, PriorSettings
from conffusion.errors import ConffusionError, ConfigError
from conffusion.methods.registry import get_method
from conffusion.workflow.checks import check_dealt, checked_plan
from conffusion.workflow.plan import Plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, 1 after a clear message on bad input."""
    options = _parser().parse_args(arguments)
    try:
        print(options.run(options))
    except ConffusionError as error:
        print(f"conffusion: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="conffusion",
        description="Calibrated per-pixel confidence intervals for image restoration. The workflow itself runs with "
        "`snakemake all --cores 8`; see README.md.",
    )
    parser.add_argument("--version", action="version", version=f"conffusion {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, run, purpose in (
        ("check", lambda config: describe(config), "check a configuration and say what a run of it would do"),
        ("doctor", _doctor, "check versions, device, files, checkpoints and disk, and say what to mend"),
        ("estimate", _estimate, "time the real code on this machine and say what a run would cost"),
    ):
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument(
            "--configfile", nargs="*", default=[], help="overlays laid over config.yaml, weakest first"
        )
        command.set_defaults(run=lambda options, run=run: run(load_config("config.yaml", *options.configfile)))
    _add_import(commands)
    _add_status(commands)
    return parser


def _add_status(commands: Any) -> None:
    purpose = "say how far a run is: jobs done, rate, time left, what runs where, failures with the end of their logs"
    command = commands.add_parser("status", help=purpose, description=purpose)
    command.add_argument("results", help="results/<run>; nothing else is read, so any machine that sees it will do")
    command.add_argument("--watch", type=float, metavar="SECONDS", help="say it again every so many seconds")
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=_status)


def _status(options: argparse.Namespace) -> str:
    from conffusion.workflow.status import read_status
    from conffusion.workflow.status_text import status_json, status_text

    show = status_json if options.json else status_text
    status = read_status(options.results)
    with contextlib.suppress(KeyboardInterrupt):
        while options.watch and not status.is_complete:
            clear = "\033[2J\033[H" if sys.stdout.isatty() else ""
            print(f"{clear}{show(status)}", flush=True)
            time.sleep(options.watch)
            status = read_status(options.results)
    return show(status)


def _add_import(commands: Any) -> None:
    purpose = "convert an official checkpoint to safetensors, with configuration and source checksum inside"
    command = commands.add_parser("import-checkpoint", help=purpose, description=purpose)
    command.add_argument("checkpoint", help="the official file: *_gen.pth, 200_Network.pth, 128x128_diffusion.pt, ...")
    command.add_argument("output", help="file to write, ending in .safetensors")
    command.add_argument("--prior", required=True, help="its entry under `priors`, as sr3_celebahq: which network")
    command.add_argument(
        "--finetuned", metavar="TASK/METHOD", help="the file is a fine-tuned network with bound heads, for example "
        "super_resolution/n_conffusion; the prediction time is that of finetuning.tuned",
    )  # fmt: skip
    command.add_argument("--options", help="its options file, which holds lambda_hat: best_network_opt.pth")
    _add_configfile(command)
    command.set_defaults(run=_import_checkpoint)


def _add_configfile(command: argparse.ArgumentParser) -> None:
    command.add_argument("--configfile", nargs="*", default=[], help="overlays laid over config.yaml, weakest first")


def _import_checkpoint(options: argparse.Namespace) -> str:
    from conffusion.stages.importing import import_finetuned, import_prior

    config = load_config("config.yaml", *options.configfile)
    if options.prior not in config.priors:
        raise ConfigError(f"--prior {options.prior}: is not one of {', '.join(config.priors)}")
    if Path(options.output).suffix != ".safetensors":
        raise ConfigError(f"{options.output}: must end in .safetensors")
    prior = config.priors[options.prior].model_copy(update={"checkpoint": options.checkpoint})
    if options.finetuned is None:
        record = import_prior(options.prior, prior, options.output)
    else:
        spec = _predictor_spec(config, prior, options.finetuned)
        record = import_finetuned(options.prior, prior, spec, options.options, options.output)
    scale = f", lambda_hat {record['lambda_hat']:.6g}" if "lambda_hat" in record else ""
    if options.finetuned is not None:
        scale += (
            f"; read at prediction time {spec.prediction_time:g}, maps_timestep {spec.maps_timestep} (official "
            "networks want those of config/paper.yaml: give it with --configfile)"
        )
    source = record["source"]
    return f"{options.output}: {options.prior}, from {source['file']} (sha256 {source.get('sha256')}){scale}"


def _predictor_spec(config: Config, prior: PriorSettings, finetuned: str) -> Any:
    from conffusion.methods.models import PredictorSpec
    from conffusion.tasks import build_task
    from conffusion.training.priors import architecture_of

    task, _, method = finetuned.partition("/")
    tuned = config.finetuning.tuned.get(task, {}).get(method)
    if tuned is None:
        raise ConfigError(f"--finetuned {finetuned}: finetuning.tuned has no {task}.{method}; give TASK/METHOD")
    maps_timestep = config.finetuning.maps_timestep
    return PredictorSpec(architecture_of(prior), tuned.prediction_time, build_task(task).known_outside, maps_timestep)


def _doctor(config: Config) -> str:
    """All findings; raises when one of them would stop a run."""
    from conffusion.workflow.doctor import examine

    findings = list(examine(config))
    text = "\n".join(f"{'ok  ' if one.healthy else 'FAIL'}  {one.subject}: {one.detail}" for one in findings)
    if all(one.healthy for one in findings):
        return text
    raise ConffusionError(f"not ready for run {config.run}\n{text}")


def _estimate(config: Config) -> str:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: as in the jobs that are timed here
    from conffusion.workflow.estimate import estimate_text

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
    from conffusion.stages.images import configured_dataset

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
    return "\n".join([
        f"run {config.run}: the configuration is valid",
        f"images: {config.dataset.name}, {plan.largest_image_size} pixels; "
        + ", ".join(f"{split} {n_images} in {n_groups} groups" for split, (n_images, n_groups) in counts.items()),
        f"tasks: {', '.join(plan.tasks)}",
        f"methods: {methods}; {config.replicates} fine-tuning run(s) of each trained one",
        f"DM_SB: {sampling.n_variants} variants per image, {sampling.solver}",
        f"promise: with probability {1 - config.calibration.delta:g} over calibration sets, at most a share of "
        f"{config.calibration.alpha:g} of the true pixel values of new images lies outside",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
