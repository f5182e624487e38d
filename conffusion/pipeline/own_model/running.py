"""The workflow as a child process: its lines are passed on, failures explained, and nothing is left running."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from conffusion.core.layout import RunLayout
from conffusion.errors import ConffusionError
from conffusion.pipeline.records import read_records
from conffusion.store.files import translate_oserror

LOGGER = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 20.0  # for an end in good order, before the next stronger signal
_LOG_LINES = 15  # shown of what Snakemake printed


def run_workflow(workflow: Path, run: str, targets: Sequence[str], overlay: Path, cores: int) -> None:
    """Make files of a run with Snakemake; what is there already is kept, so a second call goes on.

    Args:
        workflow: Folder of the workflow, in which Snakemake runs.
        run: Name of the run.
        targets: Files to make, relative to the folder.
        overlay: Configuration laid over config.yaml.
        cores: CPU cores for all jobs together.
    Raises:
        ConffusionError: If a job fails, or another run holds the folder; says how to go on.
        KeyboardInterrupt: At Ctrl-C, SIGTERM or SIGHUP, after the child and its jobs have ended.
    """
    folder = workflow / "results" / run
    log = RunLayout(folder).logs / "snakemake.log"
    with translate_oserror(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        printed = log.open("wb")
    options = ["--cores", str(cores), "--nocolor", "--configfile", str(overlay)]
    command = [sys.executable, "-m", "snakemake", *targets, *options]  # targets first: some options swallow them
    start = time.time()
    with printed, _termination_interrupts():
        child = subprocess.Popen(
            command, cwd=workflow, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            _show(child, log)
        except BaseException:
            _end(child)
            raise
    if child.returncode:
        raise ConffusionError(_failure(folder, log, start, command))


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP (a closed terminal) end the child as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: dict[int, Any] = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(child: "subprocess.Popen[bytes]", log: Path) -> None:
    """Pass on what the child prints until it ends: a line per finished job, and the progress of long ones."""
    with log.open(encoding="utf-8", errors="replace") as printed:
        while True:
            has_ended = child.poll() is not None
            for line in printed:
                LOGGER.info("%s", line.rstrip("\n"))
            if has_ended:
                return
            time.sleep(_POLL_SECONDS)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End the child and all its jobs: first as Ctrl-C does, which they can answer, then by force."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_PATIENCE_SECONDS)
            break
    with suppress(ProcessLookupError):  # jobs that outlived Snakemake
        os.killpg(child.pid, signal.SIGKILL)


def _failure(folder: Path, log: Path, start: float, command: Sequence[str]) -> str:
    """What went wrong: the message of the job that failed, or the end of what Snakemake printed."""
    printed = log.read_text(encoding="utf-8", errors="replace")
    if "LockException" in printed:
        return (
            f"{folder}: another run works in it, or was killed there. Wait for it, or, if none runs: cd "
            f"{folder.parents[1]} && {' '.join([*command[:3], '--unlock', *command[-2:]])}, then the same command again"
        )
    failed = [record for record in read_records(folder) if record.state == "failed" and record.beat >= start]
    if failed:
        latest = max(failed, key=lambda record: record.beat)
        return f"{latest.rule} failed: {latest.message}\nits log: {folder / latest.log}; then the same command goes on"
    end = "\n".join(printed.strip().splitlines()[-_LOG_LINES:])
    return f"the workflow stopped:\n{end}\nall of it: {log}; then the same command goes on"
