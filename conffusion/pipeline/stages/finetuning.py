"""Fine-tuning one method on one task; the best checkpoint of each protocol is kept, and every candidate."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from conffusion.core.device import Device
from conffusion.methods.competition import Score
from conffusion.methods.models import save_predictor
from conffusion.methods.protocols import PROTOCOLS
from conffusion.pipeline.settings import FinetuningStage
from conffusion.pipeline.stages.fitting import FinetuningInputs, FinetuningRun
from conffusion.store import atomic_path, link_or_copy, remove_leftovers
from conffusion.training.parallel import ALONE, Processes
from conffusion.training.state import StateFolder

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuningOutputs:
    """What a fine-tuning run writes.

    Attributes:
        models: By protocol, its best checkpoint.
        candidates: Folder of all checkpoints that competed.
        curve: Loss and validation scores by step (CSV).
    """

    models: Mapping[str, Path]
    candidates: Path
    curve: Path


def finetune_method(
    job: FinetuningStage,
    inputs: FinetuningInputs,
    outputs: FinetuningOutputs,
    states: StateFolder,
    device: Device,
    processes: Processes = ALONE,
) -> None:
    """Fit one method; keep the best checkpoint of each protocol, every candidate, and the curve.

    A run that was cut short goes on from its latest state; its outputs are those of an undisturbed one. Of several
    processes the first writes.

    Raises:
        CheckpointError: If the prior does not fit the configured architecture.
        ConfigError: If there are too many processes for a batch.
        StoreError: If an image store is incomplete.
    """
    run = FinetuningRun(job, inputs, device, processes)

    def validate(step: int) -> dict[str, Score]:
        scores = {name: run.score(name, step) for name in PROTOCOLS}
        for name, score in scores.items():
            LOGGER.info("step %d, %s: interval size %.4f", step, name, score.interval_size)
        record = {
            "method": job.method.name, "task": run.task, "replicate": job.replicate, "step": step,
            "seed": job.seed, **job.tuned.model_dump(),
        }  # fmt: skip
        save_predictor(states.companions / candidate_name(step), run.predictor, run.spec, record)
        return scores

    run.run(validate, states)
    if processes.is_first:
        _write_outputs(run, states.companions, outputs)
        states.clear()


def _write_outputs(run: FinetuningRun, candidates: Path, outputs: FinetuningOutputs) -> None:
    """Second names for the candidates, which stay with the states until all outputs stand."""
    for path in (outputs.candidates, *outputs.models.values(), outputs.curve):
        remove_leftovers(path, sole_writer=True)
    with atomic_path(outputs.candidates) as folder:
        folder.mkdir()
        for step in run.competition.scores:
            link_or_copy(candidates / candidate_name(step), folder / candidate_name(step))
    for name in PROTOCOLS:
        with atomic_path(outputs.models[name]) as temporary:
            link_or_copy(outputs.candidates / candidate_name(run.competition.best(name)[1]), temporary)
    with atomic_path(outputs.curve) as temporary:
        curve = pd.concat([pd.DataFrame(run.losses), pd.DataFrame(run.competition.rows())])
        curve.to_csv(temporary, index=False)


def candidate_name(step: int) -> str:
    """File name of the checkpoint of a step; names sort by step."""
    return f"step-{step:07d}.safetensors"
