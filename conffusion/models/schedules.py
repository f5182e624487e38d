"""Noise schedules of SR3, Palette and guided diffusion (Ho et al. 2020; Nichol and Dhariwal 2021)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from conffusion.core.arrays import FloatArray, IntArray
from conffusion.core.names import lookup
from conffusion.errors import ConfigError

MAX_BETA = 0.999


@dataclass(frozen=True)
class NoiseSchedule:
    """Discrete noise schedule in float64.

    Attributes:
        betas: (n_timesteps,), variance added at each step.
        alphas_cumprod: (n_timesteps,), squared signal level, abar_t, falling.
        timestep_map: (n_timesteps,), index of each step in the schedule before respacing.
    """

    betas: FloatArray
    alphas_cumprod: FloatArray
    timestep_map: IntArray

    @property
    def n_timesteps(self) -> int:
        """Number of steps after respacing."""
        return len(self.betas)

    @property
    def alphas_cumprod_prev(self) -> FloatArray:
        """(n_timesteps,), abar one step earlier, starting with 1."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @property
    def posterior_variance(self) -> FloatArray:
        """(n_timesteps,), variance of x_{t-1} given x_t and x_0 (Ho et al. 2020, eq. 7)."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @property
    def posterior_mean_coefficients(self) -> tuple[FloatArray, FloatArray]:
        """Weights of x_0 and x_t in the posterior mean (Ho et al. 2020, eq. 7), each (n_timesteps,)."""
        previous = self.alphas_cumprod_prev
        weight_x0 = self.betas * np.sqrt(previous) / (1 - self.alphas_cumprod)
        weight_xt = (1 - previous) * np.sqrt(1 - self.betas) / (1 - self.alphas_cumprod)
        return weight_x0, weight_xt

    def clean_image_coefficients(self, timestep: int) -> tuple[float, float]:
        """(a, b) of x_0 = a x_t - b e at a step (Ho et al. 2020, eq. 15)."""
        abar = self.alphas_cumprod[timestep]
        return math.sqrt(1 / abar), math.sqrt(1 / abar - 1)


def noise_schedule(
    name: str,
    n_timesteps: int,
    *,
    linear_start: float = 1e-4,
    linear_end: float = 2e-2,
    cosine_s: float = 8e-3,
    respacing: int | None = None,
) -> NoiseSchedule:
    """Build a noise schedule by its official name.

    Args:
        name: A key of `SCHEDULES`.
        n_timesteps: Number of steps before respacing.
        linear_start: First beta of "linear", "quad" and the warm-ups.
        linear_end: Last beta of these, and the constant of "const".
        cosine_s: Offset of "cosine" (Nichol and Dhariwal 2021, eq. 17).
        respacing: Keep this many evenly spaced steps (Nichol and Dhariwal 2021, eq. 19); None keeps all.
    Raises:
        ConfigError: If the name is unknown or `respacing` exceeds `n_timesteps`.
    """
    betas = lookup(SCHEDULES, name, "noise schedule")(n_timesteps, linear_start, linear_end, cosine_s)
    timesteps: IntArray = np.arange(n_timesteps)
    if respacing is not None:
        timesteps = _spaced_timesteps(n_timesteps, respacing)
        kept = np.cumprod(1 - betas)[timesteps]
        betas = 1 - kept / np.append(1.0, kept[:-1])
    return NoiseSchedule(betas, np.cumprod(1 - betas), timesteps)


def _linear(n: int, start: float, end: float, _: float) -> FloatArray:
    return np.linspace(start, end, n)


def _quad(n: int, start: float, end: float, _: float) -> FloatArray:
    return np.linspace(math.sqrt(start), math.sqrt(end), n) ** 2


def _const(n: int, _: float, end: float, __: float) -> FloatArray:
    return np.full(n, end)


def _warmup(share: float) -> Callable[[int, float, float, float], FloatArray]:
    def betas(n: int, start: float, end: float, _: float) -> FloatArray:
        n_rising = int(n * share)
        return np.append(np.linspace(start, end, n_rising), np.full(n - n_rising, end))

    return betas


def _cosine(n: int, _: float, __: float, offset: float) -> FloatArray:
    times = np.arange(n + 1) / n + offset
    signal = np.cos(times / (1 + offset) * math.pi / 2) ** 2
    return np.minimum(1 - signal[1:] / signal[:-1], MAX_BETA)


SCHEDULES: Mapping[str, Callable[[int, float, float, float], FloatArray]] = {
    "linear": _linear,
    "cosine": _cosine,
    "quad": _quad,
    "const": _const,
    "warmup10": _warmup(0.1),
    "warmup50": _warmup(0.5),
}


def _spaced_timesteps(n_timesteps: int, n_kept: int) -> IntArray:
    if not 1 <= n_kept <= n_timesteps:
        raise ConfigError(f"respacing = {n_kept}: must lie between 1 and n_timesteps = {n_timesteps}")
    stride = (n_timesteps - 1) / max(n_kept - 1, 1)
    return np.array([round(k * stride) for k in range(n_kept)])
