"""Reverse diffusion: ancestral sampling and DPM-Solver++(2M); pure functions of a denoiser and given noise."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from conffusion.core.arrays import FloatArray, IntArray
from conffusion.errors import ConfigError
from conffusion.models.schedules import NoiseSchedule

LOG_SNR_RANGE = (-4.0, 3.0)  # half the log of the signal-to-noise ratio, from almost pure noise to almost clean


class Denoiser(Protocol):
    """Predicts the noise in x_t at squared signal level abar, and perhaps the variance of the step."""

    def __call__(self, x_t: Tensor, abar: float) -> Tensor:
        """Noise of `x_t`, (N, C, H, W), at squared signal level `abar`.

        Networks with a learned variance return (N, 2C, H, W): after the noise, where between the smallest (-1) and the
        largest (1) possible variance the step's lies (Nichol and Dhariwal 2021, eq. 15).
        """


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
    smallest, largest = np.log(np.maximum(schedule.posterior_variance, 1e-20)), np.log(schedule.betas)
    weight_x0, weight_xt = schedule.posterior_mean_coefficients
    impose = known.impose if known else _identity
    x = impose(noise(0))
    for step, t in enumerate(reversed(range(schedule.n_timesteps)), start=1):
        a, b = schedule.clean_image_coefficients(t)
        predicted, *learned = denoiser(x, schedule.alphas_cumprod[t]).split(x.shape[1], dim=1)
        x0 = (a * x - b * predicted).clamp(-1, 1)
        x = weight_x0[t] * x0 + weight_xt[t] * x
        if t > 0:
            x = x + _deviation(smallest[t], largest[t], learned) * noise(step)
        x = impose(x)
    return x


def _deviation(smallest: float, largest: float, learned: list[Tensor]) -> Tensor | float:
    """Standard deviation of a step's noise from the logarithms of the smallest and the largest possible variance."""
    if not learned:
        return math.exp(0.5 * smallest)
    return torch.exp(0.5 * (smallest + (largest - smallest) * (learned[0] + 1) / 2))


def sample_dpmpp_2m(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    noise: Noise,
    known: KnownPixels | None,
    n_steps: int,
    *,
    stochastic: bool,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, DPM-Solver++): second-order multistep in the clean-image prediction.

    It solves the diffusion SDE, or the ODE with the same marginals; `snakemake solver_study` compares their intervals.

    Args:
        denoiser: Noise prediction.
        schedule: Gives the noise levels; `log_snr_timesteps` chooses `n_steps` of them.
        noise: noise(0) is the start; noise(k) the noise added in step k; the last step adds none.
        known: Pixels whose clean prediction is replaced by the truth; None in super-resolution.
        n_steps: Network calls.
        stochastic: Whether noise is added in every step (the SDE), or at the start alone (the ODE).
    Returns:
        (N, C, H, W) in [-1, 1].
    """
    abar = np.append(schedule.alphas_cumprod[log_snr_timesteps(schedule, n_steps)], 1.0)
    alpha, sigma = np.sqrt(abar), np.sqrt(1 - abar)
    log_snr = np.append(_half_log_snr(abar[:-1]), np.inf)
    impose = known.impose if known else _identity
    x = impose(noise(0))
    previous: Tensor | None = None
    for i in range(n_steps):
        predicted = denoiser(x, abar[i])[:, : x.shape[1]]
        x0 = impose(((x - sigma[i] * predicted) / alpha[i]).clamp(-1, 1))
        if i == n_steps - 1:
            return x0
        step = log_snr[i + 1] - log_snr[i]
        direction = x0
        if previous is not None:
            ratio = (log_snr[i] - log_snr[i - 1]) / step
            direction = x0 + (x0 - previous) / (2 * ratio)
        decay = math.exp(-step)
        weight = 1 - decay * decay if stochastic else 1 - decay
        x = (sigma[i + 1] / sigma[i]) * (decay if stochastic else 1.0) * x + alpha[i + 1] * weight * direction
        if stochastic:
            x = x + sigma[i + 1] * math.sqrt(weight) * noise(i + 1)
        x = impose(x)
        previous = x0
    raise AssertionError("unreachable: the last step returns")


@dataclass(frozen=True)
class Sampler:
    """A way of drawing samples, by name in `SAMPLERS`.

    Attributes:
        draw: (denoiser, schedule, noise, known pixels or None, n_steps) to samples (N, C, H, W) in about [-1, 1].
        visits_every_step: Whether it makes as many network calls as the schedule has steps, whatever `n_steps` says.
    """

    draw: Callable[[Denoiser, NoiseSchedule, Noise, KnownPixels | None, int], Tensor]
    visits_every_step: bool = False


SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        "dpmpp_2m_sde": Sampler(partial(sample_dpmpp_2m, stochastic=True)),
        "dpmpp_2m": Sampler(partial(sample_dpmpp_2m, stochastic=False)),
        "ancestral": Sampler(lambda *inputs: sample_ancestral(*inputs[:4]), visits_every_step=True),
    }
)


def log_snr_timesteps(schedule: NoiseSchedule, n_steps: int) -> IntArray:
    """Steps of the schedule nearest to an even spacing in log(signal / noise), from noisy to clean.

    Raises:
        ConfigError: If the schedule has fewer steps.

    The spacing runs over the part of `LOG_SNR_RANGE` that the schedule covers. Even spacing in time instead would leave
    a last step that is far too long.
    """
    if not 1 <= n_steps <= schedule.n_timesteps:
        raise ConfigError(f"n_steps = {n_steps}: must lie between 1 and the schedule's {schedule.n_timesteps} steps")
    log_snr = _half_log_snr(schedule.alphas_cumprod)
    low, high = max(LOG_SNR_RANGE[0], log_snr[-1]), min(LOG_SNR_RANGE[1], log_snr[0])
    times = np.array([int(np.argmin(np.abs(log_snr - wanted))) for wanted in np.linspace(low, high, n_steps)])
    rank = np.arange(n_steps)  # steps are never visited twice: shift repeated ones apart, and back into the schedule
    times = np.minimum.accumulate(times + rank) - rank
    return np.minimum(np.maximum(times, rank[::-1]), schedule.n_timesteps - 1 - rank)


def _half_log_snr(abar: FloatArray) -> FloatArray:
    return 0.5 * np.log(abar / (1 - abar))


def _identity(x: Tensor) -> Tensor:
    return x
