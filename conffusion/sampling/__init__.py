"""Sampling from diffusion networks: noise schedules, samplers, drawing variants."""

from conffusion.models.schedules import NoiseSchedule, noise_schedule
from conffusion.sampling.draw import Sampling, SamplingInput, draw_variants
from conffusion.sampling.samplers import KnownPixels, sample_ancestral, sample_dpmpp_2m_sde

__all__ = [
    "KnownPixels",
    "NoiseSchedule",
    "Sampling",
    "SamplingInput",
    "draw_variants",
    "noise_schedule",
    "sample_ancestral",
    "sample_dpmpp_2m_sde",
]
