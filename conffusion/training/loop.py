"""What every training run shares: optimiser with warm-up and cosine decay, averaged weights, data order, resumption."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conffusion.training.parallel import ALONE, Processes

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
        micro_batch: Images per backward pass, at most; the gradient of a batch is summed over such parts. None: all.
    """

    n_steps: int
    batch_size: int
    learning_rate: float
    ema: float
    constant_rate: bool = False
    shuffled: bool = True
    final_share: float = FINAL_LEARNING_RATE_SHARE
    micro_batch: int | None = None


@dataclass(frozen=True)
class Resumption:
    """How the state of a loop is kept while it runs, and where it goes on.

    Attributes:
        start: What `save` was given by the loop that was cut short; None: at the beginning.
        is_due: Asked after every record of the loss: whether to save now.
        save: Keeps a state of nested dicts and lists of tensors, numbers and strings.
    """

    start: Mapping[str, Any] | None = None
    is_due: Callable[[], bool] = lambda: False
    save: Callable[[Mapping[str, Any]], None] = lambda state: None


FROM_THE_START = Resumption()


def seed_everything(seed: int) -> None:
    """Seed torch's own generators, which initialise weights and drop units, and ask cuDNN for kernels that repeat."""
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True


class Trainer:
    """Adam steps on a network, with a moving average of its weights (Adam's default betas, no weight decay)."""

    def __init__(self, network: nn.Module, settings: Optimisation, processes: Processes = ALONE) -> None:
        self._network, self._settings, self._processes = network, settings, processes
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._parameters = parameters
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
        self._processes.add_up([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        self._optimiser.step()
        self._processes.average_batch_norm(self._network)
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

    def state(self) -> dict[str, Any]:
        """Weights, moments, schedule and average, not copied."""
        return {
            "step": self.step,
            "network": dict(self._network.state_dict()),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "average": self._average,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.step = state["step"]
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        for name, average in (self._average or {}).items():
            average.copy_(state["average"][name])

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


class BatchIndices:
    """Row numbers of every step's batch: epochs, shuffled or in order, one after the other.

    Args:
        n_images: Rows to choose from.
        settings: How many steps of how many images.
        generator: Orders the epochs.

    Attributes:
        pool: (n,) rows of the current epoch that are still to come.
        n_left: Batches still to come.
    """

    def __init__(self, n_images: int, settings: Optimisation, generator: torch.Generator) -> None:
        self._n_images, self._settings, self._generator = n_images, settings, generator
        self.pool, self.n_left = torch.empty(0, dtype=torch.long), settings.n_steps

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        if self.n_left == 0:
            raise StopIteration
        self.n_left -= 1
        size = self._settings.batch_size
        while len(self.pool) < size:
            self.pool = torch.cat([self.pool, self._epoch()])
        batch, self.pool = self.pool[:size], self.pool[size:]
        return batch

    def _epoch(self) -> Tensor:
        if self._settings.shuffled:
            return torch.randperm(self._n_images, generator=self._generator)
        return torch.arange(self._n_images)


class TrainingRun:
    """The course of one training run: batches, steps, records of the loss, and the state that all of it goes on from.

    Args:
        network: What is trained.
        settings: How.
        n_images: Images to choose from.
        seed: Data order, and whatever else is drawn from `generator`, follow from it.
        processes: Who takes part.

    Attributes:
        generator: Source of the data order and of the other random numbers of the run.
        trainer: Optimiser and averaged weights.
        batches: Row numbers of the batches that are still to come, the same in all processes.
        records: {step, loss}: means over the steps since the last record.
    """

    def __init__(
        self, network: nn.Module, settings: Optimisation, n_images: int, seed: int, processes: Processes = ALONE
    ) -> None:
        self._processes, self._on_cuda = processes, any(parameter.is_cuda for parameter in network.parameters())
        self.generator = torch.Generator().manual_seed(seed)
        self.trainer = Trainer(network, settings, processes)
        self.batches = BatchIndices(n_images, settings, self.generator)
        self.records: list[dict[str, float]] = []
        self._recent: list[Tensor] = []

    def apply(self, backward: Callable[[], Tensor]) -> None:
        """One step; see `Trainer.apply`."""
        self._recent.append(self.trainer.apply(backward))

    def record(self, every: int, stops: Collection[int]) -> bool:
        """Record the loss after every so many steps and at the stops; whether that was now."""
        if len(self._recent) < every and self.trainer.step not in stops:
            return False
        loss = torch.stack(self._recent).mean()
        self._processes.add_up([loss])  # every process has its part of the loss
        self.records.append({"step": self.trainer.step, "loss": float(loss)})
        self._recent = []
        return True

    def state(self) -> dict[str, Any]:
        """All that the rest of the run follows from; to be asked right after a record, by all processes together."""
        return {
            "trainer": self.trainer.state(),
            "generator": self.generator.get_state(),
            "pool": self.batches.pool.clone(),
            "records": list(self.records),
            "torch": self._processes.gather(torch.get_rng_state()),
            "cuda": self._processes.gather(torch.cuda.get_rng_state()) if self._on_cuda else [],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.trainer.restore(state["trainer"])
        self.generator.set_state(state["generator"])
        self.batches.pool, self.batches.n_left = state["pool"], self.batches.n_left - self.trainer.step
        self.records = [dict(record) for record in state["records"]]
        torch.set_rng_state(state["torch"][self._processes.rank])
        if state["cuda"]:
            torch.cuda.set_rng_state(state["cuda"][self._processes.rank])
