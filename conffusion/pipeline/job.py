"""What every scripted rule does first and last: log to its file, take a GPU, turn errors into clear messages."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conffusion.config import parse_config
from conffusion.core.logs import log_to
from conffusion.errors import ConffusionError, ConfigError
from conffusion.pipeline.gpu import claim_gpus, visible_gpus
from conffusion.pipeline.records import Recorder, job_name, recorded

if TYPE_CHECKING:
    from conffusion.core.device import Device
    from conffusion.pipeline.settings import StageSettings

# Read by numerical libraries when they are imported, which scripts do inside `run_job` or through lazy imports.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LOGGER = logging.getLogger("conffusion.job")
_DEVICE_FAILURES = ("CUDA error", "NCCL error", "NCCL Error", "CUDNN_STATUS_", "CUBLAS_STATUS_")  # what torch says


@dataclass(frozen=True)
class Job:
    """A rule's inputs, outputs, settings and device, as Snakemake hands them to a script.

    Attributes:
        settings: The dataclass of the rule's stage (see `conffusion.pipeline.settings`), whose digest is the rule's
            parameter of that name; None for a rule without one.
        params: All parameters, as they came.
        log: The log file, if there is one.
        device_name: "cuda" where the rule holds a GPU, else "cpu".
        threads: Threads of the job.
    """

    input: Any
    output: Any
    wildcards: Any
    settings: Any
    params: Any
    log: str | None
    device_name: str
    threads: int

    def device(self) -> "Device":
        """Device and precision of the job; imports torch, so only after the GPU has been claimed."""
        from conffusion.core.device import keep_freed_memory, select_device

        keep_freed_memory()
        return select_device(self.device_name, self.settings.precision, self.threads)


@contextmanager
def run_job(snakemake: Any) -> Iterator[Job]:
    """Run the body of a workflow script.

    A `ConffusionError`, lack of memory or disk, or a lost GPU ends the script with one clear line and exit code 1.
    """
    log = str(snakemake.log[0]) if snakemake.log else None
    start_log(log, job_name(log or "", str(snakemake.rule)))
    os.environ.update({name: str(snakemake.threads) for name in _THREAD_VARIABLES})
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads that spin cripple jobs on a busy machine
    n_gpus = int(snakemake.resources.get("gpu", 0))
    record = recorded(log or "", str(snakemake.rule), wants_gpu=n_gpus > 0)
    with clear_errors(), record as recorder, _gpus(n_gpus, recorder):
        yield Job(
            snakemake.input,
            snakemake.output,
            snakemake.wildcards,
            _settings(snakemake) if "settings" in snakemake.params.keys() else None,
            snakemake.params,
            log,
            "cuda" if n_gpus else "cpu",
            snakemake.threads,
        )


def _settings(snakemake: Any) -> "StageSettings":
    """The job's settings, made as the rule made those whose digest it has.

    Raises:
        ConfigError: If they have another digest.
    """
    from conffusion.pipeline.plan import Plan
    from conffusion.pipeline.rule_settings import RuleSettings

    make = RuleSettings(Plan(parse_config(dict(snakemake.config), source="config")))
    settings = make(str(snakemake.rule), **snakemake.wildcards)
    if settings.digest != snakemake.params.settings:
        raise ConfigError(
            "what this job depends on has changed since Snakemake was started, such as a file that the configuration "
            "names; run the same command again"
        )
    return settings


@contextmanager
def _gpus(wanted: int, recorder: Recorder) -> Iterator[None]:
    """Hold as many GPUs as are wanted, and record which."""
    with ExitStack() as held:
        for lock in claim_gpus(wanted) if wanted else []:
            held.enter_context(lock)
        if wanted:
            recorder.note(gpus=tuple(visible_gpus()))
            recorder.write()
        yield


@contextmanager
def clear_errors() -> Iterator[None]:
    """Log what goes wrong; end the process with exit code 1, without a traceback, where a user can fix it."""
    try:
        yield
    except KeyboardInterrupt:
        LOGGER.info("interrupted")
        sys.exit(130)
    except (ConffusionError, OSError, MemoryError) as error:
        LOGGER.error("%s: %s", type(error).__name__, error)
        sys.exit(1)
    except Exception as error:
        if not is_device_failure(error):
            LOGGER.exception("a fault of the program, not of its input")
            raise
        LOGGER.error(
            "the GPU failed (%s). What was saved until then is kept: run the same command again to go on. If it "
            "happens again, leave this GPU out with CUDA_VISIBLE_DEVICES, or set device: cpu",
            str(error).strip().partition("\n")[0],
        )
        sys.exit(1)


def is_device_failure(error: Exception) -> bool:
    """Whether torch reports a lost GPU or connection between GPUs, and not a fault of the program."""
    text = str(error)
    return any(sign in text for sign in _DEVICE_FAILURES) and "device-side assert" not in text


def start_log(path: str | None, name: str, *, empty: bool = True, level: int = logging.INFO) -> None:
    """Log to a file, which several processes may share, and warnings to the terminal too; without a file all to it.

    Args:
        path: The log file.
        name: Name of the job, which its lines in the terminal begin with.
        empty: Whether to begin the file anew.
        level: The lowest level of records.
    """
    terminal = logging.StreamHandler()
    terminal.setFormatter(logging.Formatter(f"%(asctime)s  {name}: %(message)s", datefmt="%H:%M:%S"))
    if path is None:
        log_to(terminal, level=level)
        return
    terminal.addFilter(
        lambda record: record.levelno == logging.WARNING
    )  # Snakemake shows the end of a failed job's log
    if empty:
        Path(path).write_text("")
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    log_to(terminal, file, level=level)
