"""Where the full states of training jobs are kept, and what they belong to. Imports torch."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from conffusion.core.device import Device
from conffusion.pipeline.job import Job
from conffusion.training.state import StateFolder


def job_states(
    folder: str | Path,
    minutes: float,
    device: Device,
    *,
    digests: Sequence[str],
    inputs: Iterable[str | Path],
    n_processes: int = 1,
) -> StateFolder:
    """States of a job, each bound to all that the numbers of the job follow from.

    Args:
        folder: A folder of this job's own.
        minutes: Between two states.
        device: Kind of device and precision.
        digests: Of the job's settings, and of the code behind it.
        inputs: Files that it reads: weights, and manifests of stores.
        n_processes: How many processes share the job.
    """
    contents = [_sha256(path) for path in inputs]
    numbers = [device.torch_device.type, device.bfloat16, n_processes, torch.__version__]
    text = json.dumps([*digests, contents, numbers])
    return StateFolder(folder, hashlib.sha256(text.encode()).hexdigest(), minutes)


def states_of(job: Job, device: Device, minutes: float) -> StateFolder:
    """States of a rule's job in one process; the rule's parameter `state` names their folder."""
    digests = (job.settings.digest, job.params.code)
    return job_states(job.params.state, minutes, device, digests=digests, inputs=list(job.input))


def _sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
