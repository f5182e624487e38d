"""What every scripted rule does first and last: log to its file, take a GPU, turn errors into clear messages."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from conffusion.config import parse_config, schema
from conffusion.errors import ConffusionError
from conffusion.workflow.gpu import claim_gpu, visible_gpus
from conffusion.workflow.records import Recorder, recorded

if TYPE_CHECKING:
    from conffusion.compute import Compute

# Read by numerical libraries when they are imported, which scripts do inside `run_job` or through lazy imports.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LOGGER = logging.getLogger("conffusion.job")

# Parameters that stand for a section of the configuration come back as that section.
_SECTIONS: Mapping[str, type[schema.Section]] = MappingProxyType(
    {
        "dataset": schema.DatasetSettings,
        "prior": schema.PriorSettings,
        "sampling": schema.SamplingSettings,
        "tuned": schema.MethodTuning,
        "finetuning": schema.FinetuningSettings,
        "calibration": schema.CalibrationSettings,
        "tuning": schema.TuningSettings,
        "validity": schema.ValiditySettings,
        "solver_study": schema.SolverStudySettings,
    }
)


@dataclass(frozen=True)
class Job:
    """A rule's inputs, outputs, typed settings and device, as Snakemake hands them to a script.

    Attributes:
        settings: `params.settings` with sections of the configuration as their own types.
        raw_config: The configuration as Snakemake holds it; `config` has the types.
        precision: "auto", "float32" or "bfloat16".
        device: "cuda" where the rule holds a GPU, else "cpu".
        threads: Threads of the job.
    """

    input: Any
    output: Any
    wildcards: Any
    settings: Mapping[str, Any]
    raw_config: Mapping[str, Any]
    precision: str
    device: str
    threads: int

    @property
    def config(self) -> schema.Config:
        """The whole configuration, for what changes no number, such as batch sizes: an edit of it repeats nothing."""
        return parse_config(dict(self.raw_config), source="config")

    def compute(self) -> "Compute":
        """Device and precision of the job; imports torch, so only after the GPU has been claimed."""
        from conffusion.compute import keep_freed_memory, select_compute

        keep_freed_memory()
        return select_compute(self.device, self.precision, self.threads)


@contextmanager
def run_job(snakemake: Any) -> Iterator[Job]:
    """Run the body of a workflow script.

    A `ConffusionError` or lack of memory or disk ends the script with one clear line and exit code 1.
    """
    log = _start_log(snakemake.log)
    os.environ.update({name: str(snakemake.threads) for name in _THREAD_VARIABLES})
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads that spin cripple jobs on a busy machine
    uses_gpu = bool(snakemake.resources.get("gpu", 0))
    try:
        with recorded(log, str(snakemake.rule), wants_gpu=uses_gpu) as recorder, _gpu(uses_gpu, recorder):
            values = dict(snakemake.params.get("settings", {}))
            precision = values.pop("precision", "auto")
            settings = {name: _typed(name, value) for name, value in values.items()}
            yield Job(
                snakemake.input,
                snakemake.output,
                snakemake.wildcards,
                settings,
                snakemake.config,
                precision,
                "cuda" if uses_gpu else "cpu",
                snakemake.threads,
            )
    except (ConffusionError, OSError, MemoryError) as error:
        LOGGER.error("%s: %s", type(error).__name__, error)
        sys.exit(1)
    except Exception:
        LOGGER.exception("a fault of the program, not of its input")
        raise


@contextmanager
def _gpu(wanted: bool, recorder: Recorder) -> Iterator[None]:
    """Hold a GPU, where one is wanted, and record which."""
    lock = claim_gpu() if wanted else None
    if wanted:
        recorder.note(gpus=tuple(visible_gpus()))
        recorder.write()
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _typed(name: str, value: Any) -> Any:
    return _SECTIONS[name](**value) if name in _SECTIONS and value is not None else value


def _start_log(paths: Any) -> str:
    """Start logging; returns the path of the log file, empty without one."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if paths:
        handlers.append(logging.FileHandler(str(paths[0]), mode="w"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=handlers)
    logging.captureWarnings(True)
    return str(paths[0]) if paths else ""
