"""Chains of reverse diffusion in batches; each is a pure function of (seed, task, image id, variant number)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt
import torch
from torch import Tensor, nn

from conffusion.core.arrays import to_pm1
from conffusion.core.device import Device
from conffusion.core.names import lookup
from conffusion.models.denoiser import ConditionalDenoiser
from conffusion.models.schedules import NoiseSchedule
from conffusion.sampling.noise import ChainNoise
from conffusion.sampling.samplers import SAMPLERS, KnownPixels, Sampler
from conffusion.tasks import DegradedImages

Chain: TypeAlias = tuple[int, int]  # row of the image, number of the variant


@dataclass(frozen=True)
class Solver:
    """How one variant is drawn.

    Attributes:
        name: Key of `conffusion.sampling.samplers.SAMPLERS`.
        n_steps: Network calls per variant, for samplers that can leave out steps of the schedule.
        shared_start: Whether all variants of an image with a hole start from the condition's own fill.
    """

    name: str
    n_steps: int
    shared_start: bool = False

    @property
    def sampler(self) -> Sampler:
        """The sampler of this name.

        Raises:
            ConfigError: If there is none; names the nearest.
        """
        return lookup(SAMPLERS, self.name, "sampling.solver")

    def n_calls(self, schedule: NoiseSchedule) -> int:
        """Network calls per variant."""
        return schedule.n_timesteps if self.sampler.visits_every_step else self.n_steps


class ChainSampler:
    """Draws any chains of the given images at once.

    Args:
        network: The task's diffusion network, on the device.
        schedule: Noise levels.
        images: Degraded images, in memory.
        solver: How a variant is drawn.
        dtype: Type of the results: "uint8" (0..255), "float16" or "float32" (in [0, 1]).
        device: Device and precision; where it compiles, batches are filled up to the size of the first one, because
            every other size would be compiled anew.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        images: DegradedImages,
        solver: Solver,
        dtype: str,
        device: Device,
    ) -> None:
        self._network, self._schedule, self._images, self._solver = network.eval(), schedule, images, solver
        self._dtype, self._device = dtype, device
        self._compiled_size = 0

    def launch(self, chains: Sequence[Chain]) -> Callable[[], npt.NDArray[Any]]:
        """Start drawing; the function returned waits for the (len(chains), C, H, W) results and gives them."""
        n_chains = len(chains)
        if self._device.compiles:
            self._compiled_size = max(self._compiled_size, n_chains)
            chains = [*chains, *[chains[-1]] * (self._compiled_size - n_chains)]
        with torch.inference_mode(), self._device.autocast():
            samples = to_dtype(self._draw(chains), self._dtype)
        return self._device.fetch(samples[:n_chains])

    def _draw(self, chains: Sequence[Chain]) -> Tensor:
        images, device = self._images.take([row for row, _ in chains]), self._device
        clean, hole = device.tensor(to_pm1(images.condition)), device.tensor(images.mask)
        condition, known = clean, None
        if images.task.has_mask:
            condition = clean * (1 - hole) + device.tensor(images.noise("fill")) * hole
            known = KnownPixels(clean, hole)
        variants = zip(images.image_ids, (variant for _, variant in chains), strict=True)
        names = [(images.seed, images.task.name, image_id, variant) for image_id, variant in variants]
        noise = ChainNoise(names, images.shape, device.torch_device)

        def noise_or_fill(step: int) -> Tensor:
            drawn = noise(step)
            return condition if step == 0 and self._solver.shared_start and known else drawn

        denoiser = ConditionalDenoiser(self._network, condition)
        return self._solver.sampler.draw(denoiser, self._schedule, noise_or_fill, known, self._solver.n_steps)


def to_dtype(samples_pm1: Tensor, dtype: str) -> Tensor:
    """Samples mapped to [0, 1] in the type that is stored: "uint8" (steps of 1/255), "float16" or "float32"."""
    samples_01 = ((samples_pm1 + 1) / 2).clamp(0, 1)
    if dtype == "uint8":
        return (samples_01 * 255).round().to(torch.uint8)
    return samples_01.to(getattr(torch, dtype))
