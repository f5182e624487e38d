"""Several processes that train one network together: each takes its part of every batch, and gradients are added up."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

_BUCKET_VALUES = 16 * 2**20  # gradients travel in pieces of at most 64 MiB
_PATIENCE = timedelta(days=7)  # others wait while the first process validates; torchrun ends them if it dies


@dataclass(frozen=True)
class Processes:
    """This process and those that it trains with; alone, every method gives back what it was given.

    Attributes:
        rank: Number of this process; process 0 validates and writes.
        n: How many there are.
        device: Where tensors that travel have to be.
    """

    rank: int = 0
    n: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this is the process that validates and writes."""
        return self.rank == 0

    def part(self, n_items: int) -> slice:
        """This process's consecutive items of a batch; parts differ by one item at most."""
        return slice(self.rank * n_items // self.n, (self.rank + 1) * n_items // self.n)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over the processes."""
        if self.n == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, values in zip(bucket, parts, strict=True):
                tensor.detach().copy_(values.view(tensor.shape))

    def total(self, *values: float) -> list[float]:
        """Sums of numbers over the processes."""
        if self.n == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def average_batch_norm(self, network: nn.Module) -> None:
        """Give all processes the mean of the running statistics that each gathered on its own part of the batches."""
        if self.n == 1:
            return
        layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        statistics = [
            values for layer in layers for values in (layer.running_mean, layer.running_var) if values is not None
        ]
        self.add_up(statistics)
        for values in statistics:
            values.div_(self.n)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """A small tensor of equal shape in all processes, from each of them, in order, on the CPU."""
        if self.n == 1:
            return [tensor.cpu()]
        own = tensor.to(self.device)
        gathered = [torch.empty_like(own) for _ in range(self.n)]
        dist.all_gather(gathered, own)
        return [values.cpu() for values in gathered]

    def first_decides(self, choice: bool) -> bool:
        """The choice of process 0, in all of them."""
        if self.n == 1:
            return choice
        flag = torch.tensor(int(choice), device=self.device)
        dist.broadcast(flag, src=0)
        return bool(flag)


ALONE = Processes()


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that `torchrun` started, or be alone where it did not; NCCL on CUDA, else gloo."""
    if "WORLD_SIZE" not in os.environ:
        yield ALONE
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    yield Processes(dist.get_rank(), dist.get_world_size(), device)
    dist.destroy_process_group()  # not after an error: others may wait for this process, and torchrun ends them


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(part.numel() for part in bucket) + tensor.numel() > _BUCKET_VALUES:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
