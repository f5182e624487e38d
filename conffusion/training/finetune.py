"""Fine-tuning a one-pass predictor to bounds (Horwitz and Hoshen 2022, section 3.2)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conffusion.compute import Compute
from conffusion.methods.predictor import BoundPredictor, Bounds
from conffusion.progress import Progress
from conffusion.training.loop import Optimisation, Trainer, batch_indices
from conffusion.training.objectives import Objective

LOGGER = logging.getLogger(__name__)
RECORD_EVERY = 20


@dataclass(frozen=True)
class TrainingSet:
    """Fine-tuning images on the device, all (N, C, H, W) and in [-1, 1].

    Attributes:
        condition: Corrupted images.
        mask: 1 at evaluated pixels.
        lower: What the lower bound is fitted to: the truth, or DM_SB's lower bound.
        upper: Likewise for the upper bound.
        noise: Fixed noise inputs (those of the sampled bounds), or None for fresh noise at every step.
        n_classes: Classes of a class-conditional network, which sees a random one at every step; 0 = none.
    """

    condition: Tensor
    mask: Tensor
    lower: Tensor
    upper: Tensor
    noise: Tensor | None
    n_classes: int


def validation_steps(n_steps: int, n_validations: int) -> list[int]:
    """Steps after which a checkpoint competes: evenly spaced, the last step included."""
    return sorted({max(1, round(step)) for step in np.linspace(0, n_steps, n_validations + 1)[1:]})


def finetune(
    predictor: BoundPredictor,
    data: TrainingSet,
    objective: Objective,
    quantile: float,
    settings: Optimisation,
    compute: Compute,
    *,
    seed: int,
    n_validations: int,
    on_validation: Callable[[int], None],
) -> list[dict[str, float]]:
    """Fit the predictor; at every validation `on_validation(step)` sees it with averaged weights, in evaluation mode.

    All images of a batch are mirrored together with probability one half.

    Args:
        predictor: Changed in place; ends with the weights of the last step, not averaged.
        data: Fine-tuning images and targets.
        objective: Loss on the evaluated pixels.
        quantile: Lower quantile of pinball losses, alpha / 2.
        settings: Optimiser settings.
        compute: Device and precision.
        seed: Data order, noise and mirroring follow from it.
        n_validations: How many checkpoints compete.
        on_validation: Called with the step.
    Returns:
        Records {step, loss}, the mean of every `RECORD_EVERY` steps.
    """
    generator = torch.Generator().manual_seed(seed)
    trainer = Trainer(predictor.network, settings)
    stops = validation_steps(settings.n_steps, n_validations)
    progress, records, recent = Progress("fine-tuning", settings.n_steps, unit="steps"), [], []
    predictor.train()
    for rows in batch_indices(len(data.condition), settings.batch_size, settings.n_steps, generator):
        loss = _loss(predictor, data, rows, objective, quantile, compute, generator)
        trainer.apply(loss)
        recent.append(loss.detach())
        if len(recent) == RECORD_EVERY or trainer.step in stops:
            records.append({"step": trainer.step, "loss": float(torch.stack(recent).mean())})
            recent = []
        if trainer.step in stops:
            with trainer.averaged():
                on_validation(trainer.step)
        progress.update()
    return records


def _loss(
    predictor: BoundPredictor,
    data: TrainingSet,
    rows: Tensor,
    objective: Objective,
    quantile: float,
    compute: Compute,
    generator: torch.Generator,
) -> Tensor:
    mirrored = bool(torch.rand((), generator=generator) < 0.5)
    condition, mask, lower, upper = (
        _take(part, rows, mirrored) for part in (data.condition, data.mask, data.lower, data.upper)
    )
    if data.noise is None:
        noise = torch.randn(condition.shape, generator=generator).to(compute.device)
    else:
        noise = _take(data.noise, rows, mirrored)
    labels = None
    if data.n_classes:
        labels = torch.randint(data.n_classes, (len(rows),), generator=generator).to(compute.device)
    with compute.autocast():
        bounds = predictor(condition, mask, noise, labels)
    evaluated = mask > 0
    return objective(Bounds(*(bound[evaluated] for bound in bounds)), lower[evaluated], upper[evaluated], quantile)


def _take(images: Tensor, rows: Tensor, mirrored: bool) -> Tensor:
    batch = images[rows.to(images.device)]
    return batch.flip(-1) if mirrored else batch
