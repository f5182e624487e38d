"""Fine-tuning a one-pass predictor to bounds (Horwitz and Hoshen 2022, section 3.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conffusion.core.device import Device
from conffusion.methods.predictor import BoundPredictor, Bounds
from conffusion.training.loop import Batch, Problem
from conffusion.training.objectives import Objective, Sharpening

RECORD_EVERY = 20  # steps between two records of the loss


@dataclass(frozen=True)
class TrainingSet:
    """Fine-tuning images on the device, all (N, C, H, W) and in [-1, 1].

    Attributes:
        condition: Degraded images.
        mask: 1 at evaluated pixels.
        lower: What the lower bound is fitted to: the truth, or DM_SB's lower bound.
        upper: Likewise for the upper bound.
        noise: Fixed noise inputs (those of the sampled bounds), or None for fresh noise at every step.
        n_classes: Classes of a class-conditional network, which sees a random one at every step; 0 = none.
        horizontal_flip: Whether half of the batches are mirrored.
    """

    condition: Tensor
    mask: Tensor
    lower: Tensor
    upper: Tensor
    noise: Tensor | None
    n_classes: int
    horizontal_flip: bool = True


@dataclass(frozen=True)
class BoundBatch(Batch):
    """One step's images and all that is random about them; as in `TrainingSet`, with class labels (N,) or None."""

    condition: Tensor
    mask: Tensor
    lower: Tensor
    upper: Tensor
    noise: Tensor
    labels: Tensor | None


class BoundFitting(Problem[BoundBatch]):
    """Fitting the bounds of a predictor to targets.

    Args:
        predictor: Placed on the device.
        data: Fine-tuning images and targets.
        objective: Loss on the evaluated pixels.
        quantile: Lower quantile of pinball losses, alpha / 2.
        device: Device and precision.
    """

    def __init__(
        self, predictor: BoundPredictor, data: TrainingSet, objective: Objective, quantile: float, device: Device
    ) -> None:
        self.network, self.n_images = predictor.network, len(data.condition)
        self.smallest_part = smallest_part(predictor)
        self._predictor, self._data, self._device = predictor, data, device
        self._objective, self._quantile = objective, quantile

    def draw(self, rows: Tensor, generator: torch.Generator) -> BoundBatch:
        """The images of one step; all of them are mirrored together, or none."""
        data, device = self._data, self._device.torch_device
        flipped = data.horizontal_flip and bool(torch.rand((), generator=generator) < 0.5)
        rows = rows.to(data.condition.device)

        def take(images: Tensor) -> Tensor:
            return images[rows].flip(-1) if flipped else images[rows]

        condition = take(data.condition)
        if data.noise is None:
            noise = torch.randn(condition.shape, generator=generator).to(device)
        else:
            noise = take(data.noise)
        labels = None
        if data.n_classes:
            labels = torch.randint(data.n_classes, (len(rows),), generator=generator).to(device)
        return BoundBatch(condition, take(data.mask), take(data.lower), take(data.upper), noise, labels)

    def loss(self, batch: BoundBatch) -> Tensor:
        """The objective on the evaluated pixels."""
        with self._device.autocast():
            bounds = self._predictor(batch.condition, batch.mask, batch.noise, batch.labels)
        evaluated = batch.mask > 0
        inside = Bounds(*(bound[evaluated] for bound in bounds))
        return self._objective(inside, batch.lower[evaluated], batch.upper[evaluated], self._quantile)

    def end_step(self) -> None:
        """Moves the price of the sharpening."""
        if isinstance(self._objective, Sharpening):
            self._objective.update_price()

    def state(self) -> dict[str, float]:
        """The price of the sharpening."""
        return self._objective.state() if isinstance(self._objective, Sharpening) else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that holds what `state` gave."""
        if isinstance(self._objective, Sharpening):
            self._objective.restore(state)


def validation_steps(n_steps: int, every: int, *, first: bool = False) -> list[int]:
    """Steps after which a checkpoint competes: every so many, the last one, and the first one if asked for."""
    return sorted({*range(every, n_steps + 1, every), n_steps, *([1] if first else [])} - {0})


def smallest_part(module: nn.Module) -> int:
    """Images that a part of a batch must hold: batch norm needs two."""
    return 2 if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules()) else 1
