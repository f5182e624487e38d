"""The command line: `conffusion --help`. One module per group of commands; each adds its own."""

import argparse
import sys
from collections.abc import Sequence

from conffusion import __version__
from conffusion.cli import exporting, finetuning, importing, own_images, status, view, workflow
from conffusion.errors import ConffusionError

COMMANDS = (own_images, finetuning, exporting, view, workflow, importing, status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, 1 after a clear message on bad input."""
    options = make_parser().parse_args(arguments)
    try:
        print(options.run(options))
    except ConffusionError as error:
        print(f"conffusion: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("conffusion: stopped; the same command goes on from what was finished", file=sys.stderr)
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="conffusion",
        description="Calibrated per-pixel confidence intervals for image restoration. The workflow itself runs with "
        "`snakemake all --cores 8`; see README.md.",
    )
    parser.add_argument("--version", action="version", version=f"conffusion {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for module in COMMANDS:
        module.add(commands)
    return parser
