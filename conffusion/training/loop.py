"""What every training run shares: optimiser with warm-up and cosine decay, and an averaged copy of the weights."""

import math
from collections.abc import Iterator
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
    """

    n_steps: int
    batch_size: int
    learning_rate: float
    ema: float


class Trainer:
    """Adam steps on a network, with a moving average of its weights (Adam's default betas, no weight decay)."""

    def __init__(self, network: nn.Module, settings: Optimisation) -> None:
        self._network, self._settings = network, settings
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, self._rate)
        self._average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        self.step = 0

    def apply(self, loss: Tensor) -> None:
        """One optimiser step down the gradient of `loss`."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        self._schedule.step()
        self.step += 1
        self._update_average()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Evaluation mode with the averaged weights; the training weights come back afterwards."""
        current = {name: tensor.detach().clone() for name, tensor in self._network.state_dict().items()}
        self._network.load_state_dict(self._average)
        self._network.eval()
        try:
            yield
        finally:
            self._network.load_state_dict(current)
            self._network.train()

    def _rate(self, step: int) -> float:
        n_steps = self._settings.n_steps
        warmup = max(1, round(WARMUP_SHARE * n_steps))
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, n_steps - warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return FINAL_LEARNING_RATE_SHARE + (1 - FINAL_LEARNING_RATE_SHARE) * cosine

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._settings.ema, self.step / (self.step + 9))  # short memory while the average is young
        for name, tensor in self._network.state_dict().items():
            average = self._average[name]
            if tensor.is_floating_point():
                average.lerp_(tensor, 1 - decay)
            else:
                average.copy_(tensor)


def batch_indices(n_images: int, batch_size: int, n_steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`n_steps` batches of row numbers: shuffled epochs, one after the other."""
    pool = torch.empty(0, dtype=torch.long)
    for _ in range(n_steps):
        while len(pool) < batch_size:
            pool = torch.cat([pool, torch.randperm(n_images, generator=generator)])
        yield pool[:batch_size]
        pool = pool[batch_size:]
