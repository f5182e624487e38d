"""Fine-tuning a one-pass predictor to bounds (Horwitz and Hoshen 2022, section 3.2)."""

import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from conffusion.compute import BatchLimit, Compute
from conffusion.methods.predictor import BoundPredictor, Bounds
from conffusion.progress import Progress
from conffusion.training.loop import Again, Optimisation, Trainer, batch_indices
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
        mirrors: Whether half of the batches are mirrored.
    """

    condition: Tensor
    mask: Tensor
    lower: Tensor
    upper: Tensor
    noise: Tensor | None
    n_classes: int
    mirrors: bool = True


@dataclass(frozen=True)
class _Batch:
    """One step's images and all that is random about them; as in `TrainingSet`, with class labels or None."""

    condition: Tensor
    mask: Tensor
    lower: Tensor
    upper: Tensor
    noise: Tensor
    labels: Tensor | None

    def part(self, rows: slice) -> "_Batch":
        """Some of the images."""
        labels = None if self.labels is None else self.labels[rows]
        return _Batch(
            self.condition[rows], self.mask[rows], self.lower[rows], self.upper[rows], self.noise[rows], labels
        )


def validation_steps(n_steps: int, every: int, *, first: bool = False) -> list[int]:
    """Steps after which a checkpoint competes: every so many, the last one, and the first one if asked for."""
    return sorted({*range(every, n_steps + 1, every), n_steps, *([1] if first else [])} - {0})


def finetune(
    predictor: BoundPredictor,
    data: TrainingSet,
    objective: Objective,
    quantile: float,
    settings: Optimisation,
    compute: Compute,
    *,
    seed: int,
    stops: Collection[int],
    on_validation: Callable[[int], None],
    after_step: Callable[[], None] = lambda: None,
) -> list[dict[str, float]]:
    """Fit the predictor; at every stop `on_validation(step)` sees it with averaged weights, in evaluation mode.

    Where memory does not suffice for a batch, its gradient is summed over parts. The result is the same up to rounding,
    except that batch norm then sees the parts, and dropout draws other masks.

    Args:
        predictor: Changed in place; ends with the weights of the last step, not averaged.
        data: Fine-tuning images and targets.
        objective: Loss on the evaluated pixels.
        quantile: Lower quantile of pinball losses, alpha / 2.
        settings: Optimiser settings.
        compute: Device and precision.
        seed: Data order, noise and mirroring follow from it.
        stops: Steps after which a checkpoint competes; see `validation_steps`.
        on_validation: Called with the step.
        after_step: Called after every step of the optimiser; `Sharpening.settle`.
    Returns:
        Records {step, loss}, the mean of every `RECORD_EVERY` steps.
    """
    generator = torch.Generator().manual_seed(seed)
    trainer = Trainer(predictor.network, settings)
    limit = BatchLimit(settings.batch_size, smallest=2 if _has_batch_norm(predictor) else 1)
    progress, records, recent = Progress("fine-tuning", settings.n_steps, unit="steps"), [], []
    predictor.train()
    for rows in batch_indices(len(data.condition), settings, generator):
        batch = _draw(data, rows, compute, generator)
        recent.append(trainer.apply(partial(_backward, predictor, batch, objective, quantile, compute, limit)))
        after_step()
        if len(recent) == RECORD_EVERY or trainer.step in stops:
            records.append({"step": trainer.step, "loss": float(torch.stack(recent).mean())})
            recent = []
        if trainer.step in stops:
            with trainer.averaged():
                on_validation(trainer.step)
        progress.update()
    return records


def _draw(data: TrainingSet, rows: Tensor, compute: Compute, generator: torch.Generator) -> _Batch:
    """The images of one step; all of them are mirrored together, or none."""
    mirrored = data.mirrors and bool(torch.rand((), generator=generator) < 0.5)
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
    return _Batch(condition, mask, lower, upper, noise, labels)


def _backward(
    predictor: BoundPredictor,
    batch: _Batch,
    objective: Objective,
    quantile: float,
    compute: Compute,
    limit: BatchLimit,
) -> Tensor:
    """Add the gradient of the batch's loss, part by part, and return the loss.

    Raises:
        Again: If a part did not fit into memory; `limit` is lower then.
    """
    n_images, total = len(batch.condition), torch.zeros((), device=compute.device)
    n_parts = max(1, min(math.ceil(n_images / limit.size), n_images // limit.smallest))
    for k in range(n_parts):  # nearly equal parts, none smaller than it may be
        part = batch.part(slice(k * n_images // n_parts, (k + 1) * n_images // n_parts))
        try:
            loss = _loss(predictor, part, objective, quantile, compute) * (len(part.condition) / n_images)
            loss.backward()
        except (MemoryError, RuntimeError) as error:
            limit.shrink(len(part.condition), error)
            raise Again from None
        total += loss.detach()
    return total


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())


def _loss(predictor: BoundPredictor, batch: _Batch, objective: Objective, quantile: float, compute: Compute) -> Tensor:
    with compute.autocast():
        bounds = predictor(batch.condition, batch.mask, batch.noise, batch.labels)
    evaluated = batch.mask > 0
    inside = Bounds(*(bound[evaluated] for bound in bounds))
    return objective(inside, batch.lower[evaluated], batch.upper[evaluated], quantile)


def _take(images: Tensor, rows: Tensor, mirrored: bool) -> Tensor:
    batch = images[rows.to(images.device)]
    return batch.flip(-1) if mirrored else batch
