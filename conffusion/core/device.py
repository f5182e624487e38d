"""Where and in which precision networks run."""

import ctypes
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor, nn

from conffusion.errors import ConfigError

LOGGER = logging.getLogger(__name__)
# What torch's CPU allocator, cuBLAS and cuDNN say.
_OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "out of memory")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Device:
    """Device and precision of a job.

    Attributes:
        torch_device: Where tensors and networks live.
        bfloat16: Whether networks run under bfloat16 autocast; weights and losses stay float32.
        compiles: Whether `place` compiles networks (torch.compile; with CUDA graphs on a GPU), which needs a compiler.
    """

    torch_device: torch.device
    bfloat16: bool
    compiles: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which networks are called."""
        return torch.autocast(self.torch_device.type, torch.bfloat16, enabled=self.bfloat16)

    def tensor(self, array: Any) -> Tensor:
        """An array as a float32 tensor on the device; the copy to a GPU is asynchronous."""
        tensor = torch.as_tensor(array, dtype=torch.float32)
        if self.torch_device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(self.torch_device, non_blocking=True)

    def fetch(self, tensor: Tensor) -> Callable[[], npt.NDArray[Any]]:
        """Start to copy a tensor to the CPU; the function returned waits for the copy and gives it as an array."""
        if self.torch_device.type != "cuda":
            return tensor.numpy
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        copy.copy_(tensor, non_blocking=True)
        done = torch.cuda.Event()
        done.record()

        def wait() -> npt.NDArray[Any]:
            done.synchronize()
            return copy.numpy()

        return wait

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device in channels-last layout, where convolutions are fastest."""
        placed = network.to(self.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compiles:
            placed.compile(mode="reduce-overhead" if self.torch_device.type == "cuda" else None, dynamic=False)
        return placed


def select_device(device: str = "auto", precision: str = "auto", threads: int | None = 1) -> Device:
    """Choose device and precision, and limit torch's threads.

    Args:
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "mps" (Apple's GPUs).
        precision: "auto" (bfloat16 where the hardware multiplies it natively), "float32" or "bfloat16".
        threads: CPU threads of this job; None leaves the number as it is.
    Raises:
        ConfigError: If "cuda" or "mps" is asked for and torch sees no such device.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ConfigError("device = 'cuda', but torch sees no CUDA device; set device: cpu or auto")
    if device == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("device = 'mps', but torch sees no such device; choose cpu or auto")
        return Device(torch.device("mps"), False)
    chosen = torch.device("cuda" if has_cuda and device != "cpu" else "cpu")
    bfloat16 = _native_bfloat16(chosen) if precision == "auto" else precision == "bfloat16"
    return Device(chosen, bfloat16)


def keep_freed_memory(*, like_default: bool = False) -> None:
    """Let the C library keep what tensors free, instead of handing it back to the system; for a whole process.

    Otherwise the pages of every large activation on a CPU are fetched and cleared anew, a sixth of the time of a
    full-size network. Does nothing without glibc.

    Args:
        like_default: Set the largest limits to which glibc raises its own by itself, for benchmarks.
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if set_option is not None:
            set_option(_M_MMAP_THRESHOLD, 32 << 20 if like_default else 1 << 30)
            set_option(_M_TRIM_THRESHOLD, 64 << 20 if like_default else (1 << 31) - 1)


@dataclass
class BatchLimit:
    """The largest batch that memory has room for, found by halving when it runs out.

    Attributes:
        size: Items per batch, at most.
        smallest: Items that a batch must hold; 2 for training with batch norm.
    """

    size: int
    smallest: int = 1

    def batches(self, items: Sequence[Item], work: Callable[[Sequence[Item]], Result]) -> list[Result]:
        """Results of `work` on consecutive parts of `items`; a part that does not fit is halved and done again.

        Raises:
            MemoryError: If the smallest possible batch does not fit.
        """
        return list(self.stream(items, work))

    def stream(self, items: Sequence[Item], work: Callable[[Sequence[Item]], Result]) -> Iterator[Result]:
        """As `batches`, one result at a time."""
        start = 0
        while start < len(items):
            part = items[start : start + self.size]
            try:
                result = work(part)
            except (MemoryError, RuntimeError) as error:
                self.shrink(len(part), error)
                continue
            start += len(part)
            yield result

    def shrink(self, n_items: int, error: Exception) -> None:
        """Halve the limit after `n_items` did not fit; any other error is raised again.

        Raises:
            MemoryError: If the smallest possible batch does not fit.
        """
        if not is_out_of_memory(error):
            raise error
        if n_items < 2 * self.smallest:
            raise MemoryError(
                f"not even {self.smallest} image(s) at a time fit into memory: choose a smaller network or image_size, "
                "or device: cpu"
            ) from error
        self.size = n_items // 2
        LOGGER.warning("out of memory with batches of %d: going on with %d", n_items, self.size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory, of the machine or of a GPU, ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(text in str(error) for text in _OUT_OF_MEMORY)


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
