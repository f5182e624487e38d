"""Fine-tuning a one-pass predictor to bounds (Horwitz and Hoshen 2022, section 3.2)."""

import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from conffusion.core.device import BatchLimit, Device
from conffusion.core.progress import Progress
from conffusion.methods.predictor import BoundPredictor, Bounds
from conffusion.training.loop import FROM_THE_START, Again, Optimisation, Resumption, TrainingRun
from conffusion.training.objectives import Objective
from conffusion.training.parallel import ALONE, Processes

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
    device: Device,
    *,
    seed: int,
    stops: Collection[int],
    on_validation: Callable[[int], bool | None],
    after_step: Callable[[], None] = lambda: None,
    resumption: Resumption = FROM_THE_START,
    processes: Processes = ALONE,
) -> list[dict[str, float]]:
    """Fit the predictor; at every stop `on_validation(step)` sees it with averaged weights, in evaluation mode.

    A batch is divided among the processes, and in each of them into parts where `settings.micro_batch` says so or
    memory does not suffice; its gradient is the sum over all parts. The result is the same up to rounding, except that
    batch norm then sees the parts, and dropout draws other masks.

    Args:
        predictor: Changed in place; ends with the weights of the last step, not averaged.
        data: Fine-tuning images and targets.
        objective: Loss on the evaluated pixels.
        quantile: Lower quantile of pinball losses, alpha / 2.
        settings: Optimiser settings.
        device: Device and precision.
        seed: Data order, noise and mirroring follow from it.
        stops: Steps after which a checkpoint competes; see `validation_steps`.
        on_validation: Called with the step, in the first process alone; True ends the run.
        after_step: Called after every step of the optimiser; `Sharpening.settle`.
        resumption: Where to go on, and how the state is kept; asked after every record.
        processes: Who takes part; all call this with the same arguments.
    Returns:
        Records {step, loss}, the mean of every `RECORD_EVERY` steps.
    """
    run = TrainingRun(predictor.network, settings, len(data.condition), seed, processes)
    size = min(settings.batch_size, settings.micro_batch or settings.batch_size)
    limit = BatchLimit(size, smallest=smallest_batch(predictor))
    if resumption.start is not None:
        run.restore(resumption.start)
        limit.size = resumption.start["limits"][processes.rank]
    first = run.trainer.step
    progress = Progress(_label(first), settings.n_steps - first, unit="steps")
    predictor.train()
    for rows in run.batches:
        batch = _draw(data, rows, device, run.generator)
        run.apply(partial(_backward, predictor, batch, objective, quantile, device, limit, processes))
        after_step()
        if run.record(RECORD_EVERY, stops):
            if run.trainer.step in stops and _validate(run, on_validation, processes):
                break
            if processes.first_decides(resumption.is_due()):
                limits = [int(size) for size in processes.gather(torch.tensor(limit.size))]
                resumption.save({**run.state(), "limits": limits})
        progress.update()
    return run.records


def _validate(run: TrainingRun, on_validation: Callable[[int], bool | None], processes: Processes) -> bool:
    """Whether the run is to end."""
    ends = False
    if processes.is_first:
        with run.trainer.averaged():
            ends = bool(on_validation(run.trainer.step))
    return processes.first_decides(ends)


def _label(first_step: int) -> str:
    return f"fine-tuning from step {first_step}" if first_step else "fine-tuning"


def _draw(data: TrainingSet, rows: Tensor, device: Device, generator: torch.Generator) -> _Batch:
    """The images of one step; all of them are mirrored together, or none."""
    mirrored = data.mirrors and bool(torch.rand((), generator=generator) < 0.5)
    condition, mask, lower, upper = (
        _take(part, rows, mirrored) for part in (data.condition, data.mask, data.lower, data.upper)
    )
    if data.noise is None:
        noise = torch.randn(condition.shape, generator=generator).to(device.torch_device)
    else:
        noise = _take(data.noise, rows, mirrored)
    labels = None
    if data.n_classes:
        labels = torch.randint(data.n_classes, (len(rows),), generator=generator).to(device.torch_device)
    return _Batch(condition, mask, lower, upper, noise, labels)


def _backward(
    predictor: BoundPredictor,
    batch: _Batch,
    objective: Objective,
    quantile: float,
    device: Device,
    limit: BatchLimit,
    processes: Processes,
) -> Tensor:
    """Add the gradient of this process's part of the batch's loss, piece by piece, and return that part of the loss.

    Raises:
        Again: If a part did not fit into memory; `limit` is lower then.
    """
    n_images, total = len(batch.condition), torch.zeros((), device=device.torch_device)
    own = batch.part(processes.part(n_images))
    n_own = len(own.condition)
    n_parts = max(1, min(math.ceil(n_own / limit.size), n_own // limit.smallest))
    for k in range(n_parts):  # nearly equal parts, none smaller than it may be
        part = own.part(slice(k * n_own // n_parts, (k + 1) * n_own // n_parts))
        try:
            loss = _loss(predictor, part, objective, quantile, device) * (len(part.condition) / n_images)
            loss.backward()
        except (MemoryError, RuntimeError) as error:
            limit.shrink(len(part.condition), error)
            raise Again from None
        total += loss.detach()
    return total


def smallest_batch(module: nn.Module) -> int:
    """Images that a part of a batch must hold: batch norm needs two."""
    return 2 if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules()) else 1


def _loss(predictor: BoundPredictor, batch: _Batch, objective: Objective, quantile: float, device: Device) -> Tensor:
    with device.autocast():
        bounds = predictor(batch.condition, batch.mask, batch.noise, batch.labels)
    evaluated = batch.mask > 0
    inside = Bounds(*(bound[evaluated] for bound in bounds))
    return objective(inside, batch.lower[evaluated], batch.upper[evaluated], quantile)


def _take(images: Tensor, rows: Tensor, mirrored: bool) -> Tensor:
    batch = images[rows.to(images.device)]
    return batch.flip(-1) if mirrored else batch
