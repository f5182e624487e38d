"""The command line: `conffusion --help`."""

import argparse
import sys
from collections.abc import Sequence

from conffusion import __version__
from conffusion.config import load_config
from conffusion.config.schema import Config
from conffusion.errors import ConffusionError
from conffusion.methods.registry import get_method
from conffusion.workflow.plan import checked_plan


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
    check = commands.add_parser("check", help="check a configuration and say what a run of it would do")
    check.add_argument("--configfile", nargs="*", default=[], help="overlays laid over config.yaml, weakest first")
    check.set_defaults(run=lambda options: describe(load_config("config.yaml", *options.configfile)))
    return parser


def describe(config: Config) -> str:
    """What a run of the configuration would do, in words.

    Raises:
        ConfigError: If it cannot run.
    """
    plan = checked_plan(config)
    sampling, splits = config.sampling, config.dataset.splits.model_dump()
    methods = ", ".join(get_method(name).label for name in config.methods)
    return "\n".join([
        f"run {config.run}: the configuration is valid",
        f"images: {config.dataset.name}, {config.image_size} pixels; "
        + ", ".join(f"{split} {size}" for split, size in splits.items()),
        f"tasks: {', '.join(plan.tasks)}",
        f"methods: {methods}; {config.replicates} fine-tuning run(s) of each trained one",
        f"DM_SB: {sampling.n_variants} variants per image, {sampling.solver}",
        f"promise: with probability {1 - config.calibration.delta:g} over calibration sets, at most a share of "
        f"{config.calibration.alpha:g} of the true pixel values of new images lies outside",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
