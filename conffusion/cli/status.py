"""`conffusion status`: how far a run of the workflow is."""

import argparse
import contextlib
import sys
import time
from typing import Any


def add(commands: Any) -> None:
    """Add the command."""
    purpose = "show how far a run is: jobs done, rate, time left, what runs where, failures with the end of their logs"
    command = commands.add_parser("status", help=purpose, description=purpose)
    command.add_argument(
        "results", help="results/<run>; nothing else is read, so it works on any machine that sees this folder"
    )
    command.add_argument(
        "--watch",
        type=float,
        metavar="SECONDS",
        help="show it again every so many seconds until the run is complete (default: once)",
    )
    command.add_argument("--json", action="store_true", help="as JSON, for programs")
    command.set_defaults(run=_status)


def _status(options: argparse.Namespace) -> str:
    from conffusion.pipeline.status import read_status
    from conffusion.pipeline.status_text import status_json, status_text

    show = status_json if options.json else status_text
    status = read_status(options.results)
    with contextlib.suppress(KeyboardInterrupt):
        while options.watch and not status.is_complete:
            clear = "\033[2J\033[H" if sys.stdout.isatty() else ""
            print(f"{clear}{show(status)}", flush=True)
            time.sleep(options.watch)
            status = read_status(options.results)
    return show(status)
