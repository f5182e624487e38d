"""The training loop of fine-tuning and pretraining: optimiser, averaged weights, data order, resumption."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from conffusion.core.device import BatchLimit
from conffusion.core.progress import Progress
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

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the step after `step` others: linear warm-up, then half a cosine."""
        warmup = max(1, round(WARMUP_SHARE * self.n_steps))
        if self.constant_rate:
            share = 1.0
        elif step < warmup:
            share = (step + 1) / warmup
        else:
            progress = min(1.0, (step - warmup) / max(1, self.n_steps - warmup))
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            share = self.final_share + (1 - self.final_share) * cosine
        return self.learning_rate * share


@dataclass(frozen=True)
class Batch:
    """The images of one step and all that is random about them; every field has one row per image, or is None."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def part(self, rows: slice) -> Self:
        """Some of the images."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: None if value is None else value[rows] for name, value in values.items()})


BatchT = TypeVar("BatchT", bound=Batch)


class Problem(ABC, Generic[BatchT]):
    """What a training run minimises.

    Attributes:
        network: What is trained, on its device.
        n_images: Images to choose from.
        smallest_part: Images that a part of a batch must hold; None: a batch is never divided.
    """

    network: nn.Module
    n_images: int
    smallest_part: int | None = None

    @abstractmethod
    def draw(self, rows: Tensor, generator: torch.Generator) -> BatchT:
        """The images of these row numbers, with random numbers of the generator."""

    @abstractmethod
    def loss(self, batch: BatchT) -> Tensor:
        """Mean loss of a batch, or of a part of it, as a scalar."""

    def end_step(self) -> None:
        """Called after every step of the optimiser."""
        return

    def state(self) -> dict[str, float]:
        """What the problem itself remembers from step to step."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that holds what `state` gave."""
        return


def seed_everything(seed: int) -> None:
    """Seed torch's own generators, which initialise weights and drop units, and ask cuDNN for kernels that repeat."""
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True


class Training(Generic[BatchT]):
    """One training run: Adam with default betas and no weight decay, a moving average of the weights, the data order.

    A batch is divided among the processes, and in each of them into parts where `settings.micro_batch` says so or
    memory does not suffice; its gradient is the sum over all parts. The result is the same up to rounding, except that
    batch norm then sees the parts, and dropout draws other masks.

    Args:
        problem: What is minimised; its network is changed in place.
        settings: Optimiser settings.
        seed: Data order and the random numbers of the batches follow from it.
        noise_seed: Another seed for the random numbers of the batches; None: they and the data order share a generator.
        processes: Who takes part; all make the same calls with the same arguments.

    Attributes:
        step: Steps of the optimiser so far.
        losses: Records {step, loss}: means over the steps since the last record.
    """

    def __init__(
        self,
        problem: Problem[BatchT],
        settings: Optimisation,
        seed: int,
        *,
        noise_seed: int | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self._problem, self._settings, self._processes = problem, settings, processes
        self._network = problem.network
        self._parameters = [parameter for parameter in self._network.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.Adam(self._parameters, lr=settings.learning_rate)
        self._average = _copy(self._network) if settings.ema > 0 else None
        self._order = torch.Generator().manual_seed(seed)
        self._noise = self._order if noise_seed is None else torch.Generator().manual_seed(noise_seed)
        self._epoch = torch.empty(0, dtype=torch.long)  # rows of the current epoch that are still to come
        size = min(settings.batch_size, settings.micro_batch or settings.batch_size)
        self._limit = BatchLimit(size, smallest=problem.smallest_part or settings.batch_size)
        self.step = 0
        self.losses: list[dict[str, float]] = []

    def run(self, label: str, record_every: int, stops: Collection[int] = ()) -> Iterator[int]:
        """Train to the last step; after every record the caller may validate, save the state or end the run.

        Args:
            label: What the progress line calls the run.
            record_every: Steps between two records of the loss.
            stops: Steps after which there is a record besides.
        Yields:
            The number of steps so far, after every record.
        """
        label = f"{label} from step {self.step}" if self.step else label
        progress = Progress(label, self._settings.n_steps - self.step, unit="steps")
        recent: list[Tensor] = []
        self._network.train()
        while self.step < self._settings.n_steps:
            recent.append(self._take_step())
            progress.update()
            if len(recent) == record_every or self.step in stops or self.step == self._settings.n_steps:
                loss = torch.stack(recent).mean()
                self._processes.add_up([loss])  # every process has its part of the loss
                self.losses.append({"step": self.step, "loss": float(loss)})
                recent = []
                yield self.step

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

    def keep_average(self) -> None:
        """End the run with the averaged weights in the network, in evaluation mode."""
        if self._average is not None:
            self._network.load_state_dict(self._average)
        self._network.eval()

    def state(self) -> dict[str, Any]:
        """All that the rest of the run follows from, not copied; to be asked right after a record, by all processes."""
        gather = self._processes.gather
        on_cuda = any(parameter.is_cuda for parameter in self._parameters)
        return {
            "step": self.step,
            "losses": list(self.losses),
            "network": dict(self._network.state_dict()),
            "optimiser": self._optimiser.state_dict(),
            "average": self._average,
            "epoch": self._epoch.clone(),
            "order": self._order.get_state(),
            "noise": self._noise.get_state(),
            "torch": gather(torch.get_rng_state()),
            "cuda": gather(torch.cuda.get_rng_state()) if on_cuda else [],
            "limits": [int(size) for size in gather(torch.tensor(self._limit.size))],
            **self._problem.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that holds what `state` gave."""
        self.step, self.losses = state["step"], [dict(record) for record in state["losses"]]
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        for name, average in (self._average or {}).items():
            average.copy_(state["average"][name])
        self._epoch = state["epoch"]
        self._order.set_state(state["order"])
        self._noise.set_state(state["noise"])
        torch.set_rng_state(state["torch"][self._processes.rank])
        if state["cuda"]:
            torch.cuda.set_rng_state(state["cuda"][self._processes.rank])
        self._limit.size = state["limits"][self._processes.rank]
        self._problem.restore(state)

    def _take_step(self) -> Tensor:
        """One step of the optimiser; this process's part of the loss before it."""
        loss = self._backward(self._problem.draw(self._next_rows(), self._noise))
        self._processes.add_up([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.learning_rate_at(self.step)
        self._optimiser.step()
        self._processes.average_batch_norm(self._network)
        self.step += 1
        if self._average is not None:
            self._update_average(self._average)
        self._problem.end_step()
        return loss

    def _next_rows(self) -> Tensor:
        """Row numbers of the next batch, the same in all processes: epochs, one after the other."""
        size, n_images = self._settings.batch_size, self._problem.n_images
        while len(self._epoch) < size:
            shuffled = self._settings.shuffled
            more = torch.randperm(n_images, generator=self._order) if shuffled else torch.arange(n_images)
            self._epoch = torch.cat([self._epoch, more])
        rows, self._epoch = self._epoch[:size], self._epoch[size:]
        return rows

    def _backward(self, batch: BatchT) -> Tensor:
        """Leave the gradient of this process's part of a batch's loss in the parameters; return that part of the loss.

        Where a part does not fit into memory, the step is begun anew with smaller ones.
        """
        own = batch.part(self._processes.part(len(batch)))
        while True:
            self._optimiser.zero_grad(set_to_none=True)
            losses = []
            for part in self._parts(own):
                try:
                    loss = self._problem.loss(part) * (len(part) / len(batch))
                    loss.backward()
                except (MemoryError, RuntimeError) as error:
                    self._limit.shrink(len(part), error)
                    break
                losses.append(loss.detach())
            else:
                return reduce(torch.add, losses)

    def _parts(self, batch: BatchT) -> list[BatchT]:
        """Nearly equal parts of a batch, none larger than memory allows or smaller than it may be."""
        n = len(batch)
        n_parts = max(1, min(math.ceil(n / self._limit.size), n // self._limit.smallest))
        return [batch.part(slice(k * n // n_parts, (k + 1) * n // n_parts)) for k in range(n_parts)]

    @torch.no_grad()
    def _update_average(self, averages: dict[str, Tensor]) -> None:
        decay = min(self._settings.ema, self.step / (self.step + 9))  # short memory while the average is young
        for name, tensor in self._network.state_dict().items():
            average = averages[name]
            if tensor.is_floating_point():
                average.lerp_(tensor, 1 - decay)
            else:
                average.copy_(tensor)


def train(problem: Problem[Any], settings: Optimisation, seed: int = 0) -> list[dict[str, float]]:
    """Train to the end without validation or states; the records of the loss."""
    training = Training(problem, settings, seed)
    for _ in training.run("training", settings.n_steps):
        pass
    return training.losses


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
