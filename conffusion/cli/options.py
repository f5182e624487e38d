"""Options that several commands share."""

import argparse
import logging
import sys
from pathlib import Path

from conffusion.core.logs import log_to
from conffusion.errors import ConfigError


def add_configfile(command: argparse.ArgumentParser) -> None:
    """`--configfile`, as Snakemake has it."""
    command.add_argument(
        "--configfile", nargs="*", default=[], help="overlays over config.yaml, weakest first (default: none)"
    )


def add_licence(command: argparse.ArgumentParser) -> None:
    """`--licence`, of a package that is written."""
    command.add_argument("--licence", help="text file with the licence of the model (default: none)")


def licence_text(options: argparse.Namespace) -> str:
    """Content of the file that `--licence` names; without one, that there is none.

    Raises:
        ConfigError: If it is no text.
    """
    if options.licence is None:
        return "No licence was given by those who made this model.\n"
    try:
        return Path(options.licence).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{options.licence}: cannot be read as a text ({error})") from error


def show_progress() -> None:
    """Progress and warnings on the error output, as they come."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log_to(handler)
