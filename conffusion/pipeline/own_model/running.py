"""The workflow as a child process: progress in words, a clear end, and nothing left running."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

from conffusion.core.progress import format_duration
from conffusion.errors import ConffusionError
from conffusion.pipeline.records import JobRecord, read_records
from conffusion.store.files import translate_oserror

LOGGER = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
_SAY_SECONDS = 5.0  # between two lines about the same job
_PATIENCE_SECONDS = 20.0  # for an end in good order, before the next stronger signal
_LOG_BYTES = 20000  # read from the end of the log
_LOG_LINES = 15  # shown of it

_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "split_images": "dealing the images to the splits",
        "prepare_images": "corrupting images",
        "train_prior": "training the network on clean images",
        "sample_variants": "sampling",
        "extract_bounds": "intervals of the samples",
        "finetune_method": "fine-tuning",
        "predict_bounds": "predicting",
        "calibrate_method": "calibrating",
        "evaluate_method": "measuring the risk on the test images",
    }
)


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
    log = folder / "logs" / "snakemake.log"
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
            _watch(child, folder, log)
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


def _watch(child: "subprocess.Popen[bytes]", folder: Path, log: Path) -> None:
    """Say what runs until the child ends."""
    said, rule, when = "", "", 0.0
    while child.poll() is None:
        time.sleep(_POLL_SECONDS)
        running = _running(folder)
        line = _progress(running, _end_of(log)) if running else said
        is_due = running is not None and running.rule != rule or time.monotonic() - when > _SAY_SECONDS
        if line != said and is_due:
            LOGGER.info("%s", line)
            said, rule, when = line, running.rule if running else "", time.monotonic()


def _running(folder: Path) -> JobRecord | None:
    """The job that has run for longest."""
    now = time.time()
    running = [one for one in read_records(folder) if one.state == "running" and not one.has_died(now)]
    return min(running, key=lambda one: one.started, default=None)


def _progress(running: JobRecord, printed: str) -> str:
    """`job 6 of 10, fine-tuning: 120/400 steps, 20s left`."""
    counts = re.findall(r"^[\d:]+ +(\d+)/(\d+) ", printed, flags=re.MULTILINE)  # lines of `TerminalLog`
    place = f"job {int(counts[-1][0]) + 1} of {counts[-1][1]}, " if counts else ""
    words, reading = _WORDS.get(running.rule, running.rule.replace("_", " ")), running.progress
    if reading is None:
        return place + words
    return f"{place}{words}: {reading.done}/{reading.total} {reading.unit}, {format_duration(reading.left)} left"


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_BYTES))
        return file.read().decode(errors="replace")


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
    """What went wrong: the failed job's own words, or the end of what Snakemake printed."""
    printed = _end_of(log)
    if "LockException" in printed:
        return (
            f"{folder}: another run works in it, or was killed there. Wait for it, or, if none runs: cd "
            f"{folder.parents[1]} && {' '.join([*command[:3], '--unlock', *command[-2:]])}, then the same command again"
        )
    failed = [one for one in read_records(folder) if one.state == "failed" and one.beat >= start]
    if failed:
        latest = max(failed, key=lambda one: one.beat)
        words = _WORDS.get(latest.rule, latest.rule)
        return f"{words} failed: {latest.message}\nits log: {folder / latest.log}; then the same command goes on"
    end = "\n".join(printed.strip().splitlines()[-_LOG_LINES:])
    return f"the workflow stopped:\n{end}\nall of it: {log}; then the same command goes on"
