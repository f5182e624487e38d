"""What every training run shares: optimiser with warm-up and cosine decay, and an averaged copy of the weights."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WARMUP_SHARE = 0.05
FINAL_LEARNING_RATE_SHARE = 0.05


@dataclass(frozen=True)
class Optimisation:
    """Settings of one training run.

    Attributes:
        n_steps: Optimiser steps.
        batch_size: Images per step.
        learning_rate: Peak learning rate of Adam.
        ema: Decay of the weights' exponential moving average per step; 0 switches averaging off.
        constant_rate: Keep the learning rate instead of warming up and decaying.
        shuffled: Shuffle every epoch; else images come in the order given, again and again.
        final_share: Where the decay ends, in units of the peak.
    """

    n_steps: int
    batch_size: int
    learning_rate: float
    ema: float
    constant_rate: bool = False
    shuffled: bool = True
    final_share: float = FINAL_LEARNING_RATE_SHARE


class Trainer:
    """Adam steps on a network, with a moving average of its weights (Adam's default betas, no weight decay)."""

    def __init__(self, network: nn.Module, settings: Optimisation) -> None:
        self._network, self._settings = network, settings
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, self._rate)
        self._average: dict[str, Tensor] | None = _copy(network) if settings.ema > 0 else None
        self.step = 0

    def apply(self, backward: Callable[[], Tensor]) -> Tensor:
        """One optimiser step.

        Args:
            backward: Adds the gradient of the loss to the parameters and returns the loss; called once more, on
                cleared gradients, whenever it asks for that by raising `Again`.
        """
        while True:
            self._optimiser.zero_grad(set_to_none=True)
            try:
                loss = backward()
                break
            except Again:
                continue
        self._optimiser.step()
        self._schedule.step()
        self.step += 1
        if self._average is not None:
            self._update_average(self._average)
        return loss

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Evaluation mode with the averaged weights; the training weights come back afterwards."""
        current = None
        if self._average is not None:
            current = _copy(self._network)
            self._network.load_state_dict(self._average)
        self._network.eval()
        try:
            yield
        finally:
            if current is not None:
                self._network.load_state_dict(current)
            self._network.train()

    def _rate(self, step: int) -> float:
        if self._settings.constant_rate:
            return 1.0
        n_steps, final = self._settings.n_steps, self._settings.final_share
        warmup = max(1, round(WARMUP_SHARE * n_steps))
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, n_steps - warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return final + (1 - final) * cosine

    @torch.no_grad()
    def _update_average(self, averages: dict[str, Tensor]) -> None:
        decay = min(self._settings.ema, self.step / (self.step + 9))  # short memory while the average is young
        for name, tensor in self._network.state_dict().items():
            average = averages[name]
            if tensor.is_floating_point():
                average.lerp_(tensor, 1 - decay)
            else:
                average.copy_(tensor)


class Again(Exception):
    """Asks `Trainer.apply` to repeat a step, which has to be done in smaller parts."""


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def batch_indices(n_images: int, settings: Optimisation, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of every step's batch: epochs, shuffled or in order, one after the other."""
    pool = torch.empty(0, dtype=torch.long)
    for _ in range(settings.n_steps):
        while len(pool) < settings.batch_size:
            epoch = torch.randperm(n_images, generator=generator) if settings.shuffled else torch.arange(n_images)
            pool = torch.cat([pool, epoch])
        yield pool[: settings.batch_size]
        pool = pool[settings.batch_size :]
