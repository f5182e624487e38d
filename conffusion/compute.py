"""Where and in which precision networks run."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conffusion.errors import ConfigError


@dataclass(frozen=True)
class Compute:
    """Device and precision of a job.

    Attributes:
        device: Where tensors and networks live.
        bfloat16: Whether networks run under bfloat16 autocast; weights and losses stay float32.
    """

    device: torch.device
    bfloat16: bool

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which networks are called."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def tensor(self, array: Any) -> Tensor:
        """An array as a float32 tensor on the device."""
        return torch.as_tensor(array, dtype=torch.float32).to(self.device, non_blocking=True)

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device in channels-last layout, where convolutions are fastest."""
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def select_compute(device: str = "auto", precision: str = "auto", threads: int = 1) -> Compute:
    """Choose device and precision, and limit torch's threads.

    Args:
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        precision: "auto" (bfloat16 where the hardware multiplies it natively), "float32" or "bfloat16".
        threads: CPU threads of this job.
    Raises:
        ConfigError: If "cuda" is asked for and torch sees no CUDA device.
    """
    torch.set_num_threads(threads)
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ConfigError("device = 'cuda', but torch sees no CUDA device; set device: cpu or auto")
    chosen = torch.device("cuda" if has_cuda and device != "cpu" else "cpu")
    return Compute(chosen, _native_bfloat16(chosen) if precision == "auto" else precision == "bfloat16")


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
