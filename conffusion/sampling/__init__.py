"""Sampling from diffusion networks: noise schedules, solvers, chains, variants of images."""

from conffusion.models.schedules import NoiseSchedule, noise_schedule
from conffusion.sampling.adaptive_stopping import AdaptiveStopping
from conffusion.sampling.chains import ChainSampler, Solver
from conffusion.sampling.draw import Drawn, draw_variants
from conffusion.sampling.samplers import KnownPixels, sample_ancestral, sample_dpmpp_2m

__all__ = [
    "AdaptiveStopping",
    "ChainSampler",
    "Drawn",
    "KnownPixels",
    "NoiseSchedule",
    "Solver",
    "draw_variants",
    "noise_schedule",
    "sample_ancestral",
    "sample_dpmpp_2m",
]
