"""Where the full states of training jobs are kept, and what they belong to. Imports torch."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from conffusion.config.schema import Section
from conffusion.core.device import Device
from conffusion.pipeline.job import Job
from conffusion.training.state import StateFolder


def job_states(
    folder: str | Path,
    checkpoint_every_minutes: float,
    device: Device,
    *,
    settings: Mapping[str, Any],
    code: str,
    inputs: Iterable[str | Path],
    n_processes: int = 1,
) -> StateFolder:
    """States of a job, each bound to all that the numbers of the job follow from.

    Args:
        folder: A folder of this job's own.
        checkpoint_every_minutes: Between two states.
        device: Kind of device and precision.
        settings: What the job depends on, sections of the configuration included.
        code: Digest of the code behind the job.
        inputs: Files that it reads: weights, and manifests of stores.
        n_processes: How many processes share the job.
    """
    plain = {name: value.model_dump() if isinstance(value, Section) else value for name, value in settings.items()}
    contents = [_sha256(path) for path in inputs]
    numbers = [device.torch_device.type, device.bfloat16, n_processes, torch.__version__]
    text = json.dumps([plain, code, contents, numbers], sort_keys=True)
    return StateFolder(folder, hashlib.sha256(text.encode()).hexdigest(), checkpoint_every_minutes)


def states_of(job: Job, device: Device) -> StateFolder:
    """States of a rule's job in one process; the rule's parameter `state` names their folder."""
    minutes = job.config.finetuning.checkpoint_every_minutes
    return job_states(
        job.params.state, minutes, device, settings=job.settings, code=job.params.code, inputs=list(job.input)
    )


def _sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
