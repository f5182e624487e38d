"""Drawing J variants of every image; each variant is a pure function of (seed, task, image id, variant number)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from conffusion.arrays import FloatArray, to_pm1
from conffusion.compute import BatchLimit, Compute
from conffusion.methods.random_inputs import image_noise
from conffusion.models.denoiser import ConditionalDenoiser
from conffusion.models.schedules import NoiseSchedule
from conffusion.progress import Progress
from conffusion.randomness import keyed_generator
from conffusion.sampling.samplers import KnownPixels, sample_ancestral, sample_dpmpp_2m_sde, to_storage


@dataclass(frozen=True)
class Sampling:
    """Settings of the sampler; see `sampling` in config.yaml.

    Attributes:
        solver: "dpmpp_2m_sde" or "ancestral".
        n_steps: Network calls per variant of "dpmpp_2m_sde"; "ancestral" makes as many as the schedule has steps.
        n_variants: J, variants per image.
        shared_start: Whether all variants of an image with a hole start from the condition's own fill.
        batch_size: Variants per network call.
        storage: "uint8", "float16" or "float32".
    """

    solver: str
    n_steps: int
    n_variants: int
    shared_start: bool
    batch_size: int
    storage: str


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


def draw_variants(
    network: nn.Module, schedule: NoiseSchedule, inputs: SamplingInput, settings: Sampling, compute: Compute
) -> npt.NDArray[np.generic]:
    """J restorations of every image (Horwitz and Hoshen 2022, section 3.1, sampled bounds).

    Returns:
        (N, J, C, H, W) in the storage type: uint8 in 0..255, or floats in [0, 1].
    """
    n_images, n_variants = len(inputs.image_ids), settings.n_variants
    jobs = [(row, variant) for row in range(n_images) for variant in range(n_variants)]
    progress = Progress(f"sampling {inputs.task}", len(jobs), unit="variants")
    network.eval()

    def draw(batch: Sequence[tuple[int, int]]) -> npt.NDArray[np.generic]:
        with torch.inference_mode(), compute.autocast():
            samples = _draw_batch(network, schedule, inputs, settings, compute, batch)
        progress.update(len(batch))
        return np.asarray(to_storage(samples, settings.storage).cpu().numpy())

    batches = BatchLimit(settings.batch_size).batches(jobs, draw)
    return np.concatenate(batches).reshape(n_images, n_variants, *inputs.condition.shape[1:])


def _draw_batch(
    network: nn.Module,
    schedule: NoiseSchedule,
    inputs: SamplingInput,
    settings: Sampling,
    compute: Compute,
    batch: Sequence[tuple[int, int]],
) -> Tensor:
    rows = [row for row, _ in batch]
    clean = compute.tensor(to_pm1(inputs.condition[rows]))
    hole = compute.tensor(inputs.mask[rows])
    condition, known = clean, None
    if inputs.has_holes:
        ids = [inputs.image_ids[row] for row in rows]
        fill = compute.tensor(image_noise("fill", inputs.seed, inputs.task, ids, inputs.condition.shape[1:]))
        condition, known = clean * (1 - hole) + fill * hole, KnownPixels(clean, hole)
    chains = [keyed_generator("variant", inputs.seed, inputs.task, inputs.image_ids[row], j) for row, j in batch]

    def noise(step: int) -> Tensor:
        if step == 0 and settings.shared_start and inputs.has_holes:
            return condition
        draws = [chain.standard_normal(clean.shape[1:], dtype=np.float32) for chain in chains]
        return compute.tensor(np.stack(draws))

    denoiser = ConditionalDenoiser(network, condition)
    if settings.solver == "ancestral":
        return sample_ancestral(denoiser, schedule, noise, known)
    return sample_dpmpp_2m_sde(denoiser, schedule, noise, known, settings.n_steps)
