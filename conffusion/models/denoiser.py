"""One protocol for all diffusion networks: predict the noise in x_t, whatever the network's own inputs are."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from conffusion.models.schedules import NoiseSchedule

# What each kind of network is told about the noise: its `level` argument from abar_t and the original timestep.
LEVEL_INPUTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sr3": lambda abar, timestep: abar.sqrt()[:, None],
    "palette": lambda abar, timestep: abar[:, None],
    "adm": lambda abar, timestep: timestep,
}


def level_input(kind: str, abar: float, timestep: int, like: Tensor) -> Tensor:
    """The `level` argument of a network of this kind for a whole batch at one noise level.

    Args:
        kind: "sr3" (signal level sqrt(abar)), "palette" (abar) or "adm" (the timestep).
        abar: Squared signal level in (0, 1].
        timestep: Step in the schedule that the network was trained on.
        like: Batch that gives size, device and type.
    """
    n_images = like.shape[0]  # len() would fix the number in an exported graph
    levels = torch.full((n_images,), abar, dtype=torch.float32, device=like.device)
    return LEVEL_INPUTS[kind](levels, torch.full((n_images,), timestep, dtype=torch.float32, device=like.device))


class ConditionalDenoiser:
    """Noise prediction of a network conditioned by concatenation (SR3: Saharia et al. 2021; Palette: 2022).

    Args:
        network: U-Net that takes [condition, x_t] along the channels.
        condition_pm1: (N, C, H, W), holes already filled.
    """

    def __init__(self, network: nn.Module, condition_pm1: Tensor) -> None:
        self._network = network
        self._kind: str = network.kind  # type: ignore[assignment]
        self._condition = condition_pm1

    def __call__(self, x_t: Tensor, abar: float) -> Tensor:
        """Predicted noise, (N, C, H, W), of `x_t` at squared signal level `abar`."""
        level = level_input(self._kind, abar, 0, x_t)
        prediction: Tensor = self._network(torch.cat([self._condition, x_t], dim=1), level)
        return prediction


class ClassDenoiser:
    """Noise prediction of an unconditional or class-conditional network (Dhariwal and Nichol 2021).

    Args:
        network: U-Net that takes x_t.
        schedule: The schedule it was trained on; the level asked for must be one of its steps.
        labels: (N,) classes, or None.
    """

    def __init__(self, network: nn.Module, schedule: NoiseSchedule, labels: Tensor | None) -> None:
        self._network, self._schedule, self._labels = network, schedule, labels
        self._kind: str = network.kind  # type: ignore[assignment]

    def __call__(self, x_t: Tensor, abar: float) -> Tensor:
        """Predicted noise of `x_t` at squared signal level `abar`, (N, C, H, W); 2C channels with learned variances."""
        step = int(np.argmin(np.abs(self._schedule.alphas_cumprod - abar)))
        level = level_input(self._kind, abar, int(self._schedule.timestep_map[step]), x_t)
        prediction: Tensor = self._network(x_t, level, self._labels)
        return prediction
