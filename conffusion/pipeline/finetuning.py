"""Fine-tuning jobs as the rules describe them, done in one process or in several; imports torch."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from conffusion.config.schema import Section
from conffusion.core.device import Device
from conffusion.errors import ConffusionError
from conffusion.methods.registry import get_method
from conffusion.pipeline.job import Job, typed_settings
from conffusion.pipeline.stages.finetuning import FinetuningOutputs, finetune_method
from conffusion.pipeline.stages.fitting import FinetuningInputs, FinetuningJob
from conffusion.pipeline.states import job_states
from conffusion.training.parallel import Processes

PROCESS = "conffusion.pipeline.finetuning_process"


@dataclass(frozen=True)
class FinetuningCall:
    """One job of the rule finetune_method in plain values, so that other processes can be given it.

    Attributes:
        settings: `Plan.settings("finetune_method", ...)` without the precision.
        inputs: Files by name.
        outputs: Files by name.
        states: Folder of the full states.
        code: Digest of the code.
        checkpoint_every_minutes: Between two states.
        device: "cpu" or "cuda".
        precision: "auto", "float32" or "bfloat16".
        threads: CPU threads of each process.
        log: The job's log file, or None.
    """

    settings: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    states: str
    code: str
    checkpoint_every_minutes: float
    device: str
    precision: str
    threads: int
    log: str | None

    @classmethod
    def of(cls, job: Job, n_processes: int) -> "FinetuningCall":
        """The job that Snakemake describes, in `n_processes` processes."""
        return cls(
            {name: _plain(value) for name, value in job.settings.items()},
            _named(job.input),
            _named(job.output),
            job.params.state,
            job.params.code,
            job.config.finetuning.checkpoint_every_minutes,
            job.device_name,
            job.precision,
            max(1, job.threads // n_processes),
            job.log,
        )


def finetune(call: FinetuningCall, device: Device, processes: Processes) -> None:
    """Do the job, alone or as one of several processes."""
    outputs = FinetuningOutputs(
        models={protocol: Path(call.outputs[protocol]) for protocol in ("paper", "guaranteed")},
        candidates=Path(call.outputs["candidates"]),
        curve=Path(call.outputs["curve"]),
    )
    states = job_states(
        call.states, call.checkpoint_every_minutes, device, settings=call.settings, code=call.code,
        inputs=call.inputs.values(), n_processes=processes.n,
    )  # fmt: skip
    settings = typed_settings(call.settings)
    finetune_method(finetuning_job(settings), finetuning_inputs(call.inputs), outputs, states, device, processes)


def finetune_with(n_processes: int, call: FinetuningCall) -> None:
    """Do the job in several processes that `torchrun` starts; they end with this one, however it ends.

    Raises:
        ConffusionError: If a process fails; the log says why.
    """
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    command = [*start, "-m", PROCESS, json.dumps(asdict(call))]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as running:  # the pipe closes when this process ends
        code = running.wait()
    if code != 0:
        raise ConffusionError(f"one of {n_processes} fine-tuning processes failed; the lines above say why")


def finetuning_job(settings: Mapping[str, Any]) -> FinetuningJob:
    """The job that `Plan.settings("finetune_method", ...)` describes; other keys are ignored."""
    names = {field.name for field in fields(FinetuningJob)} - {"method"}
    return FinetuningJob(method=get_method(settings["method"]), **{name: settings[name] for name in names})


def finetuning_inputs(files: Any) -> FinetuningInputs:
    """Named inputs of the rules finetune_method and try_settings."""
    sampled_bounds = files.get("sampled_bounds")
    return FinetuningInputs(
        prior=Path(files["prior"]),
        splits=Path(files["splits"]),
        images={split: Path(files[split]) for split in ("finetune", "selection", "calibration") if files.get(split)},
        sampled_bounds=Path(sampled_bounds) if sampled_bounds else None,
    )


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Section) else value


def _named(files: Any) -> dict[str, str]:
    """Snakemake's named files, without those that are absent."""
    return {name: str(path) for name, path in files.items() if path}
