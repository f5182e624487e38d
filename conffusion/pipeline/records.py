"""A small file for every job that runs or has failed: where it runs, how far it is, how it ended.

`conffusion status` reads them. They are no results: Snakemake does not know them, and no job fails without one.
Records of running and failed jobs stand in results/<run>/jobs/, named as their benchmark files; those of finished jobs
move to jobs/done/, so that watching a run of many jobs opens few files.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from conffusion.core.layout import RunLayout
from conffusion.core.progress import Reading
from conffusion.store.files import is_alive

BEAT_SECONDS = 10.0
SILENT_SECONDS = 120.0  # a job that has not been heard of for so long is dead: 12 beats
LOG_LINES = 5
_LOG_BYTES = 4000  # read from the end of a log
_DONE = "done"


@dataclass(frozen=True)
class JobRecord:
    """What is known about the last attempt at a job.

    Attributes:
        name: "<rule>/<wildcards>", or "<rule>" without wildcards, as its benchmark file below benchmarks/.
        log: Its log file, relative to results/<run>.
        host: Where it runs.
        pid: Its process there.
        started: When it started, seconds since the epoch.
        beat: When it was last heard of, likewise.
        state: "running", "failed" or "done", as the job says itself.
        gpus: What it sees as CUDA_VISIBLE_DEVICES; None while a job that wants a GPU waits for it, empty on the CPU.
        slurm_job: Its Slurm job id, if it has one.
        message: Why it failed.
        progress: How far it is, where it counts something.
    """

    name: str
    log: str
    host: str
    pid: int
    started: float
    beat: float
    state: str = "running"
    gpus: tuple[str, ...] | None = ()
    slurm_job: str | None = None
    message: str = ""
    progress: Reading | None = None

    @property
    def rule(self) -> str:
        """Name of the rule."""
        return self.name.partition("/")[0]

    def has_died(self, now: float) -> bool:
        """Whether a job that says it is running does not: its process is gone, or it has fallen silent.

        Clocks of hosts are taken to agree within a minute.
        """
        if self.state != "running":
            return False
        return now - self.beat > SILENT_SECONDS or (self.host == socket.gethostname() and not is_alive(self.pid))


class Recorder(logging.Handler):
    """Keeps the record of this process's job; as a log handler it hears of its progress.

    Args:
        folder: results/<run>/jobs.
        record: The record to begin with.
    """

    def __init__(self, folder: Path, record: JobRecord) -> None:
        super().__init__(logging.INFO)
        self._folder, self._record = folder, record
        self._ended, self._writing = threading.Event(), threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Remember the latest progress; the next beat writes it down."""
        self.note(progress=getattr(record, "progress", None) or self._record.progress)

    def note(self, **changes: Any) -> None:
        """Change fields of the record; the next beat writes them down."""
        self._record = replace(self._record, **changes)

    def write(self) -> None:
        """Write the record down, as it is now."""
        with self._writing:
            if not self._ended.is_set():
                self._write(self._folder)

    def beat(self, interval: float) -> None:
        """Write the record every `interval` seconds until the job ends."""
        while not self._ended.wait(interval):
            self.write()

    def end(self, error: BaseException | None) -> None:
        """Say how the job ended."""
        with self._writing:
            self._ended.set()
            if error is not None:
                self.note(state="failed", message=f"{type(error).__name__}: {error}".removesuffix(": "))
                self._write(self._folder)
                return
            self.note(state=_DONE)
            self._write(self._folder / _DONE)
            with contextlib.suppress(OSError):
                _path(self._folder, self._record.name).unlink(missing_ok=True)

    def _write(self, folder: Path) -> None:
        record = replace(self._record, beat=time.time())
        path = _path(folder, record.name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(record), indent=1))
            os.replace(temporary, path)
        except OSError:  # disk full, read-only folder: the job goes on without a record
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def recorded(log: str | Path, rule: str, *, wants_gpu: bool = False) -> Iterator[Recorder]:
    """Keep a record of the job while the block runs, and say how it ended.

    Args:
        log: The job's log file, results/<run>/logs/...; without a folder `logs` above it no file is written.
        rule: Name of the rule.
        wants_gpu: Whether the job will be given GPUs; see `Recorder.note`.
    """
    name, run = job_name(log, rule), _run_folder(Path(log))
    if run is None:
        yield Recorder(Path(), _new_record(name, "", wants_gpu))
        return
    relative = Path(log).relative_to(run).as_posix()
    recorder = Recorder(RunLayout(run).jobs, _new_record(name, relative, wants_gpu))
    recorder.write()
    logger = logging.getLogger("conffusion.core.progress")
    logger.addHandler(recorder)
    threading.Thread(target=recorder.beat, args=(BEAT_SECONDS,), name="job record", daemon=True).start()
    try:
        yield recorder
    except BaseException as error:
        recorder.end(error)
        raise
    else:
        recorder.end(None)
    finally:
        logger.removeHandler(recorder)


def read_records(run: str | Path) -> list[JobRecord]:
    """Records of running and failed jobs; a damaged one is left out."""
    folder = RunLayout(Path(run)).jobs
    files = [*folder.glob("*.json"), *(file for file in folder.glob("*/*.json") if file.parent.name != _DONE)]
    return [record for file in sorted(files) for record in _read(file)]


def read_record(run: str | Path, name: str) -> JobRecord | None:
    """The record of one job that runs or has failed; None if there is none, or it is damaged."""
    return next(_read(_path(RunLayout(Path(run)).jobs, name)), None)


def last_lines(log: Path) -> tuple[str, ...]:
    """The last lines of a log file that are not empty; none if it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple(line for line in text.splitlines() if line.strip())[-LOG_LINES:]


def gpus_held(run: str | Path) -> dict[str, int]:
    """Number of GPUs that every finished job held, by its name."""
    files = sorted((RunLayout(Path(run)).jobs / _DONE).rglob("*.json"))
    return {record.name: len(record.gpus or ()) for file in files for record in _read(file)}


def _read(file: Path) -> Iterator[JobRecord]:
    """The record in a file; nothing if it is damaged or has just gone."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        values = json.loads(file.read_text())
        progress, gpus = values.pop("progress"), values.pop("gpus")
        yield JobRecord(
            **values,
            gpus=None if gpus is None else tuple(gpus),
            progress=None if progress is None else Reading(**progress),
        )


def _new_record(name: str, log: str, wants_gpu: bool) -> JobRecord:
    now = time.time()
    gpus = None if wants_gpu else ()
    slurm_job = os.environ.get("SLURM_JOB_ID")
    return JobRecord(name, log, socket.gethostname(), os.getpid(), now, now, gpus=gpus, slurm_job=slurm_job)


def job_name(log: str | Path, rule: str) -> str:
    """Name of a job by its log file, results/<run>/logs/...: "<rule>/<wildcards>", or "<rule>" without wildcards."""
    run = _run_folder(Path(log))
    parts = Path(log).relative_to(RunLayout(run).logs).with_suffix("").parts if run else ()
    rest = "-".join(part for part in parts if part != rule)
    return f"{rule}/{rest}" if rest else rule


def _run_folder(log: Path) -> Path | None:
    """results/<run>, the folder above the log file's `logs`; None if there is none."""
    return next((parent.parent for parent in log.parents if parent == RunLayout(parent.parent).logs), None)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
