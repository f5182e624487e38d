"""Reverse diffusion: ancestral sampling and DPM-Solver++(2M); pure functions of a denoiser and given noise."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from conffusion.models.schedules import NoiseSchedule


class Denoiser(Protocol):
    """Predicts the noise in x_t at squared signal level abar."""

    def __call__(self, x_t: Tensor, abar: float) -> Tensor:
        """Noise of `x_t`, (N, C, H, W), at squared signal level `abar`."""


@dataclass(frozen=True)
class KnownPixels:
    """Pixels whose true value is known and re-imposed at every step (Palette, Saharia et al. 2022).

    Attributes:
        image_pm1: (N, C, H, W), true values where `hole` is 0.
        hole: (N, C, H, W), 1 where the value is unknown.
    """

    image_pm1: Tensor
    hole: Tensor

    def impose(self, x: Tensor) -> Tensor:
        """`x` with the known pixels put back."""
        return x * self.hole + self.image_pm1 * (1 - self.hole)


Noise = Callable[[int], Tensor]  # step number, 0 = start -> standard normal (N, C, H, W)


def sample_ancestral(denoiser: Denoiser, schedule: NoiseSchedule, noise: Noise, known: KnownPixels | None) -> Tensor:
    """Ancestral sampling over all steps of the schedule (Ho et al. 2020, algorithm 2), x_0 clipped at each step.

    Args:
        denoiser: Noise prediction.
        schedule: As many network calls as it has steps.
        noise: noise(0) is the start x_T; noise(k) the noise added in step k.
        known: Pixels to re-impose after every step, the start and t = 0 included; None in super-resolution.
    Returns:
        (N, C, H, W) in about [-1, 1].
    """
    log_variance = np.log(np.maximum(schedule.posterior_variance, 1e-20))
    weight_x0, weight_xt = schedule.posterior_mean_coefficients
    impose = known.impose if known else _identity
    x = impose(noise(0))
    for step, t in enumerate(reversed(range(schedule.n_timesteps)), start=1):
        a, b = schedule.clean_image_coefficients(t)
        x0 = (a * x - b * denoiser(x, schedule.alphas_cumprod[t])).clamp(-1, 1)
        x = weight_x0[t] * x0 + weight_xt[t] * x
        if t > 0:
            x = x + math.exp(0.5 * log_variance[t]) * noise(step)
        x = impose(x)
    return x


def sample_dpmpp_2m(
    denoiser: Denoiser, schedule: NoiseSchedule, noise: Noise, known: KnownPixels | None, n_steps: int
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second-order multistep in the clean-image prediction.

    Args:
        denoiser: Noise prediction.
        schedule: Gives the noise levels; `n_steps` of them, evenly spaced in time, are visited.
        noise: Only noise(0), the start, is drawn: the chain is deterministic after it.
        known: Pixels whose clean prediction is replaced by the truth; None in super-resolution.
        n_steps: Network calls.
    Returns:
        (N, C, H, W) in [-1, 1].
    """
    times = np.linspace(schedule.n_timesteps - 1, 0, n_steps + 1).round().astype(int)[:-1]
    abar = np.append(schedule.alphas_cumprod[times], 1.0)
    alpha, sigma = np.sqrt(abar), np.sqrt(1 - abar)
    log_snr = np.append(np.log(alpha[:-1] / sigma[:-1]), np.inf)
    impose = known.impose if known else _identity
    x = impose(noise(0))
    previous: Tensor | None = None
    for i in range(n_steps):
        x0 = impose(((x - sigma[i] * denoiser(x, abar[i])) / alpha[i]).clamp(-1, 1))
        step = log_snr[i + 1] - log_snr[i]
        direction = x0
        if previous is not None and np.isfinite(step):
            ratio = (log_snr[i] - log_snr[i - 1]) / step
            direction = (1 + 1 / (2 * ratio)) * x0 - previous / (2 * ratio)  # D_i of algorithm 2
        x = (sigma[i + 1] / sigma[i]) * x - alpha[i + 1] * math.expm1(-step) * direction
        x, previous = impose(x) if known else x, x0
    return x.clamp(-1, 1)


def _identity(x: Tensor) -> Tensor:
    return x


def to_storage(samples_pm1: Tensor, storage: str) -> Tensor:
    """Samples mapped to [0, 1] in the storage type: "uint8" (steps of 1/255), "float16" or "float32"."""
    samples_01 = ((samples_pm1 + 1) / 2).clamp(0, 1)
    if storage == "uint8":
        return (samples_01 * 255).round().to(torch.uint8)
    return samples_01.to(getattr(torch, storage))
