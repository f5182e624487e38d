"""Reconstructors of the deepinv library."""

from collections.abc import Callable
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch

from conffusion.contrib.adapters.common import check_n_samples, needed_library, seeded
from conffusion.core.arrays import ArrayLike, as_numpy
from conffusion.errors import ConfigError


def from_deepinv(reconstructor: Any, physics: Any, n_samples: int | None, *, seed: int = 0) -> Callable[..., Any]:
    """A deepinv reconstructor as a restoration model.

    What it returns depends on the reconstructor:

    - With a number of samples, it is called so often with other random numbers, and each result is a sample: `DDRM`,
      `DPS`, `DiffPIR`, `PosteriorDiffusion`.
    - Without one, a sampler that finds mean and variance by itself (`BaseSampling`: `ULA`, `SKRock`,
      `DiffusionSampler`) gives mean - standard deviation, mean + standard deviation, and the mean as the estimate.
    - Without one, any other is called once, and both bounds are its result: calibrate with `scaling="additive"`, for
      intervals that are equally wide.

    torch's random numbers are seeded from the content of the measurement, so that the same one always gets the same
    interval, and are put back afterwards. Those of a solver with a generator of its own (`rng`) are not.

    Args:
        reconstructor: A `deepinv.models.Reconstructor`; where it runs is its own affair.
        physics: The forward operator; an image may bring its own as the option `physics`.
        n_samples: Samples per image, at least 2; None: as above.
        seed: Of all samples.
    Returns:
        A callable (measurement without the axis of the batch, mask=None, physics=...) -> an answer as
        `conffusion.inference.restoration_model.RestorationModel` may give it. A mask says which pixels are judged;
        what was measured is for the physics to say.
    Raises:
        ConfigError: If deepinv is not installed, the reconstructor is none, or there are fewer than 2 samples.
    """
    deepinv = needed_library("deepinv")
    if not isinstance(reconstructor, deepinv.models.Reconstructor):
        raise ConfigError(
            f"reconstructor is a {type(reconstructor).__name__}: must be a deepinv.models.Reconstructor; wrap "
            "denoisers in deepinv.models.ArtifactRemoval"
        )
    if n_samples is not None:
        check_n_samples(n_samples)
    is_sampler = isinstance(reconstructor, deepinv.sampling.BaseSampling)

    def restore(image: ArrayLike, mask: ArrayLike | None = None, *, physics: Any = physics) -> Any:
        values = as_numpy(image)
        device = _device(reconstructor, physics)

        def run(call: Callable[..., Any], number: int = 0) -> Any:
            measured = torch.tensor(values, device=device)[None]  # a copy each time: some write into their argument
            measured = measured.float() if measured.is_floating_point() else measured
            with seeded(seed, values, number):
                return call(measured, physics)

        if n_samples is not None:
            return torch.cat([run(reconstructor, number).detach() for number in range(n_samples)])
        if is_sampler:
            mean, variance = (statistic[0].detach() for statistic in run(reconstructor.sample))
            spread = variance.clamp(min=0).sqrt()
            return SimpleNamespace(lower=mean - spread, upper=mean + spread, estimate=mean)
        result = run(reconstructor)[0].detach()
        return result, result

    return restore


def _device(reconstructor: Any, physics: Any) -> torch.device:
    """Where the reconstructor's weights are, or the physics'."""
    tensors = chain(reconstructor.parameters(), reconstructor.buffers(), physics.parameters(), physics.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
