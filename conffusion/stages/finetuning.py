"""Fine-tuning one method on one task; the best checkpoint of each protocol is kept, and every candidate."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from conffusion.compute import Compute
from conffusion.methods.competition import Score
from conffusion.methods.models import save_predictor
from conffusion.methods.protocols import PROTOCOLS
from conffusion.stages.fitting import FinetuningInputs, FinetuningJob, Fit
from conffusion.store import atomic_path, link_or_copy

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


def finetune_method(job: FinetuningJob, inputs: FinetuningInputs, outputs: FinetuningOutputs, compute: Compute) -> None:
    """Fit one method; keep the best checkpoint of each protocol, every candidate, and the curve.

    Raises:
        CheckpointError: If the prior does not fit the configured architecture.
        StoreError: If an image store is incomplete.
    """
    fit = Fit(job, inputs, compute)
    best: dict[str, tuple[Score, int]] = {}
    scores: list[dict[str, object]] = []
    with atomic_path(outputs.candidates) as folder:

        def validate(step: int) -> None:
            for name in PROTOCOLS:
                score = fit.score(name, step)
                LOGGER.info("step %d, %s: interval size %.4f", step, name, score.interval_size)
                scores.append({"step": step, "protocol": name, **asdict(score)})
                if score.beats(best[name][0] if name in best else None):
                    best[name] = (score, step)
            record = {
                "method": job.method.name, "task": fit.task, "replicate": job.replicate, "step": step,
                "seed": job.seed, **job.tuned.model_dump(),
            }  # fmt: skip
            save_predictor(folder / candidate_name(step), fit.predictor, fit.spec, record)

        losses = fit.run(validate)
    for name, (_, step) in best.items():
        with atomic_path(outputs.models[name]) as temporary:
            link_or_copy(outputs.candidates / candidate_name(step), temporary)
    with atomic_path(outputs.curve) as temporary:
        pd.concat([pd.DataFrame(losses), pd.DataFrame(scores)]).to_csv(temporary, index=False)


def candidate_name(step: int) -> str:
    """File name of the checkpoint of a step; names sort by step."""
    return f"step-{step:07d}.safetensors"
