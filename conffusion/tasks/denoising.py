"""Denoising: an example of how little a further task needs. Copy this file and add a line to the registry."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from conffusion.core.arrays import FloatArray
from conffusion.core.randomness import keyed_normal
from conffusion.errors import ConfigError
from conffusion.tasks.task import Photographs, Task


def denoising(*, sigma: float = 0.1) -> Task:
    """The task of removing white Gaussian noise; `sigma` is its standard deviation in units of the [0, 1] range."""
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 < sigma <= 1:
        raise ConfigError(f"denoising: sigma = {sigma!r} must be above 0 and at most 1")
    return Task("denoising", "Denoising", degrade=partial(add_noise, sigma=sigma))


def add_noise(
    target: FloatArray, image_ids: Sequence[str], seed: int, photographs: Photographs | None, *, sigma: float
) -> FloatArray:
    """Noisy images; the noise of each is a function of (seed, task, image id). The task clips them to [0, 1]."""
    noise = [keyed_normal(target.shape[1:], seed, "denoising", image_id) for image_id in image_ids]
    return target + np.float32(sigma) * np.reshape(noise, target.shape)
