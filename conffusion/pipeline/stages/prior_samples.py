"""What the priors have learned: samples of them, for a contact sheet."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from conffusion.config.schema import PriorSettings
from conffusion.core.arrays import FloatArray, to_01
from conffusion.core.device import Device
from conffusion.core.randomness import keyed_normal
from conffusion.models.denoiser import ClassDenoiser
from conffusion.models.networks import load_prior, load_weights
from conffusion.pipeline.settings import PriorSamplesStage, SamplingStage
from conffusion.pipeline.stages.sampling import VariantSource
from conffusion.sampling import sample_ancestral
from conffusion.store import open_store, read_array
from conffusion.tasks import DegradedImages
from conffusion.training.priors import architecture_of

MOST_CLASSES = 9  # shown of a generic prior


@dataclass(frozen=True)
class PriorSampleFiles:
    """What `sample_priors` reads and writes.

    Attributes:
        checkpoints: Weights by name of the prior.
        images: Test images by task.
        output: File to write.
    """

    checkpoints: Mapping[str, str | Path]
    images: Mapping[str, str | Path]
    output: str | Path


def restorations(job: SamplingStage, device: Device, *, checkpoint: str | Path, images: str | Path) -> FloatArray:
    """Rows of (truth, condition, restorations ...) of the first test images by a conditional prior.

    Args:
        job: What is drawn; of each image all variants.
        device: Device and precision.
        checkpoint: Weights of the prior.
        images: Image store.
    Returns:
        (n_images, 2 + J, C, H, W) float32 in [0, 1].
    """
    sampling = job.sampling.model_copy(update={"dtype": "float32"})
    store, rows = open_store(images), slice(0, job.n_images)
    degraded = DegradedImages.of_store(store, job.seed).part(rows)
    source = VariantSource(replace(job, sampling=sampling, quantile=None), device, checkpoint)
    variants = np.stack([drawn.variants for drawn in source.draw(degraded, source.batch_size(degraded))])
    target = read_array(store["target"], rows)
    return np.concatenate([np.stack([target, degraded.condition], axis=1), variants], axis=1)


def generations(
    prior: PriorSettings, seed: int, device: Device, *, checkpoint: str | Path, n_images: int
) -> FloatArray:
    """Images made from nothing but a class by a generic prior: (n_classes, n_images, C, H, W) in [0, 1]."""
    architecture = architecture_of(prior)
    network = architecture.build_prior()
    load_weights(network, load_prior(checkpoint, architecture))
    schedule = architecture.build_schedule()
    if schedule is None:
        raise ValueError(f"{checkpoint}: an encoder generates nothing")
    size, n_classes = int(architecture.options["image_size"]), min(MOST_CLASSES, int(network.n_classes))  # type: ignore[arg-type]
    labels = torch.arange(n_classes).repeat_interleave(n_images).to(device.torch_device)
    shape = (n_classes * n_images, 3, size, size)
    device.place(network)
    network.eval()

    def noise(step: int) -> torch.Tensor:
        return device.tensor(keyed_normal(shape, "generation", seed, step))

    with torch.inference_mode(), device.autocast():
        samples = sample_ancestral(ClassDenoiser(network, schedule, labels), schedule, noise, None)
    return to_01(samples).float().clamp(0, 1).cpu().numpy().reshape(n_classes, n_images, 3, size, size)


def sample_priors(settings: PriorSamplesStage, device: Device, files: PriorSampleFiles) -> None:
    """Samples of every diffusion prior, as one array each in an .npz file.

    Args:
        settings: Of the priors by name, and of the sampler for conditional ones.
        device: Device and precision.
        files: What is read and written.
    """
    rows: dict[str, FloatArray] = {}
    seed = settings.seed
    for name, prior in settings.priors.items():
        checkpoint = files.checkpoints[name]
        if prior.task is not None:
            job = SamplingStage(prior, settings.sampling, seed, n_images=6)
            rows[name] = restorations(job, device, checkpoint=checkpoint, images=files.images[prior.task])
        elif prior.schedule is not None:
            rows[name] = generations(prior, seed, device, checkpoint=checkpoint, n_images=12)
    np.savez(files.output, **rows)  # type: ignore[arg-type]
