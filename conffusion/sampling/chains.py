"""Chains of reverse diffusion in batches; each is a pure function of (seed, task, image id, variant number)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from conffusion.core.arrays import FloatArray, to_pm1
from conffusion.core.device import Device
from conffusion.methods.random_inputs import image_noise
from conffusion.models.denoiser import ConditionalDenoiser
from conffusion.models.schedules import NoiseSchedule
from conffusion.sampling.noise import ChainNoise
from conffusion.sampling.samplers import KnownPixels, run_chain

Chain: TypeAlias = tuple[int, int]  # row of the image, number of the variant


@dataclass(frozen=True)
class Solver:
    """How one variant is drawn.

    Attributes:
        name: "dpmpp_2m_sde", "dpmpp_2m" or "ancestral"; see `conffusion.sampling.samplers`.
        n_steps: Network calls per variant; "ancestral" makes as many as the schedule has steps.
        shared_start: Whether all variants of an image with a hole start from the condition's own fill.
    """

    name: str
    n_steps: int
    shared_start: bool = False

    def n_calls(self, schedule: NoiseSchedule) -> int:
        """Network calls per variant."""
        return schedule.n_timesteps if self.name == "ancestral" else self.n_steps


@dataclass(frozen=True)
class SamplingInput:
    """Corrupted images of one task.

    Attributes:
        task: Name of the task, part of the random keys.
        seed: The run's seed, likewise.
        image_ids: One per image, likewise.
        condition: (N, C, H, W) float32 in [0, 1].
        mask: (N, C, H, W), 1 at evaluated pixels.
        has_holes: Whether the condition lacks the pixels where the mask is 1.
    """

    task: str
    seed: int
    image_ids: tuple[str, ...]
    condition: FloatArray
    mask: npt.NDArray[np.uint8]
    has_holes: bool


class ChainSampler:
    """Draws any chains of the given images at once.

    Args:
        network: The task's diffusion network, on the device.
        schedule: Noise levels.
        inputs: Corrupted images.
        solver: How a variant is drawn.
        storage: Type of the results: "uint8" (0..255), "float16" or "float32" (in [0, 1]).
        device: Device and precision; where it compiles, batches are filled up to the size of the first one, because
            every other size would be compiled anew.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        inputs: SamplingInput,
        solver: Solver,
        storage: str,
        device: Device,
    ) -> None:
        self._network, self._schedule, self._inputs, self._solver = network.eval(), schedule, inputs, solver
        self._storage, self._device = storage, device
        self._compiled_size = 0

    def launch(self, chains: Sequence[Chain]) -> Callable[[], npt.NDArray[Any]]:
        """Start drawing; the function returned waits for the (len(chains), C, H, W) results and gives them."""
        n_chains = len(chains)
        if self._device.compiles:
            self._compiled_size = max(self._compiled_size, n_chains)
            chains = [*chains, *[chains[-1]] * (self._compiled_size - n_chains)]
        with torch.inference_mode(), self._device.autocast():
            samples = to_storage(self._draw(chains), self._storage)
        return self._device.fetch(samples[:n_chains])

    def _draw(self, chains: Sequence[Chain]) -> Tensor:
        rows, inputs, device = [row for row, _ in chains], self._inputs, self._device
        clean, hole = device.tensor(to_pm1(inputs.condition[rows])), device.tensor(inputs.mask[rows])
        condition, known = clean, None
        shape = inputs.condition.shape[1:]
        if inputs.has_holes:
            ids = [inputs.image_ids[row] for row in rows]
            fill = device.tensor(image_noise("fill", inputs.seed, inputs.task, ids, shape))
            condition, known = clean * (1 - hole) + fill * hole, KnownPixels(clean, hole)
        names = [(inputs.seed, inputs.task, inputs.image_ids[row], variant) for row, variant in chains]
        noise = ChainNoise(names, shape, device.torch_device)

        def noise_or_fill(step: int) -> Tensor:
            drawn = noise(step)
            return condition if step == 0 and self._solver.shared_start and inputs.has_holes else drawn

        denoiser = ConditionalDenoiser(self._network, condition)
        return run_chain(self._solver.name, denoiser, self._schedule, noise_or_fill, known, self._solver.n_steps)


def to_storage(samples_pm1: Tensor, storage: str) -> Tensor:
    """Samples mapped to [0, 1] in the storage type: "uint8" (steps of 1/255), "float16" or "float32"."""
    samples_01 = ((samples_pm1 + 1) / 2).clamp(0, 1)
    if storage == "uint8":
        return (samples_01 * 255).round().to(torch.uint8)
    return samples_01.to(getattr(torch, storage))
