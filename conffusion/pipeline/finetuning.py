"""Fine-tuning jobs as the rules describe them, done in one process or in several; imports torch."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from conffusion.core.device import Device
from conffusion.errors import ConffusionError
from conffusion.pipeline.job import Job
from conffusion.pipeline.plan import PROTOCOL_NAMES
from conffusion.pipeline.settings import FinetuningStage
from conffusion.pipeline.stages.finetuning import FinetuningOutputs, finetune_method
from conffusion.pipeline.stages.fitting import FinetuningInputs
from conffusion.pipeline.states import job_states
from conffusion.training.parallel import Processes

PROCESS = "conffusion.pipeline.finetuning_process"


@dataclass(frozen=True)
class FinetuningCall:
    """One job of the rule finetune_method in full, so that other processes can be given it.

    Attributes:
        settings: What is fitted, and how.
        inputs: What is read.
        outputs: What is written.
        states: Folder of the full states.
        code: Digest of the code.
        device: "cpu" or "cuda".
        threads: CPU threads of each process.
        log: The job's log file, or None.
    """

    settings: FinetuningStage
    inputs: FinetuningInputs
    outputs: FinetuningOutputs
    states: str
    code: str
    device: str
    threads: int
    log: str | None

    @classmethod
    def of(cls, job: Job) -> "FinetuningCall":
        """What Snakemake asks for."""
        output = job.output
        models = {protocol: Path(output[protocol]) for protocol in PROTOCOL_NAMES}
        return cls(
            job.settings,
            finetuning_inputs(job.input),
            FinetuningOutputs(models, Path(output.candidates), Path(output.curve)),
            job.params.state,
            job.params.code,
            job.device_name,
            max(1, job.threads // job.settings.finetuning.processes),
            job.log,
        )

    @classmethod
    def from_json(cls, text: str) -> "FinetuningCall":
        """Inverse of `to_json`."""
        return TypeAdapter(cls).validate_json(text)

    def to_json(self) -> str:
        """As text that another process can be given."""
        return TypeAdapter(type(self)).dump_json(self).decode()


def finetune(call: FinetuningCall, device: Device, processes: Processes) -> None:
    """Do the job, alone or as one of several processes."""
    settings, minutes = call.settings, call.settings.finetuning.checkpoint_every_minutes
    states = job_states(
        call.states, minutes, device, digests=(settings.digest, call.code), inputs=call.inputs.files,
        n_processes=processes.n,
    )  # fmt: skip
    finetune_method(settings, call.inputs, call.outputs, states, device, processes)


def finetune_in_processes(call: FinetuningCall) -> None:
    """Do the job in several processes that `torchrun` starts; they end with this one, however it ends.

    Raises:
        ConffusionError: If a process fails; the log says why.
    """
    n_processes = call.settings.finetuning.processes
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    command = [*start, "-m", PROCESS, call.to_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as running:  # the pipe closes when this process ends
        code = running.wait()
    if code != 0:
        raise ConffusionError(f"one of {n_processes} fine-tuning processes failed; the lines above say why")


def finetuning_inputs(files: Any) -> FinetuningInputs:
    """Named inputs of the rules finetune_method and try_settings."""
    sampled_bounds = files.get("sampled_bounds")
    return FinetuningInputs(
        prior=Path(files["prior"]),
        splits=Path(files["splits"]),
        images={split: Path(files[split]) for split in ("finetune", "selection", "calibration") if files.get(split)},
        sampled_bounds=Path(sampled_bounds) if sampled_bounds else None,
    )
