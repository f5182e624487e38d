"""What the priors have learned: samples of them, for a contact sheet."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from conffusion.config.schema import PriorSettings, SamplingSettings
from conffusion.core.arrays import FloatArray, to_01
from conffusion.core.device import Device
from conffusion.core.randomness import keyed_normal
from conffusion.models.denoiser import ClassDenoiser
from conffusion.models.networks import load_prior, load_weights
from conffusion.pipeline.settings import PriorSamplesStage
from conffusion.pipeline.stages.sampling import VariantSource
from conffusion.sampling import sample_ancestral
from conffusion.store import open_store, read_array
from conffusion.tasks import DegradedImages
from conffusion.training.priors import architecture_of

MOST_CLASSES = 9  # shown of a generic prior


def restorations(
    prior: PriorSettings,
    sampling: SamplingSettings,
    seed: int,
    device: Device,
    *,
    checkpoint: str | Path,
    images: str | Path,
    n_images: int,
) -> FloatArray:
    """Rows of (truth, condition, restorations ...) of the first test images by a conditional prior.

    Returns:
        (n_images, 2 + J, C, H, W) float32 in [0, 1].
    """  # fmt: skip
    store, rows = open_store(images), slice(0, n_images)
    degraded = DegradedImages.of_store(store, seed).part(rows)
    settings = sampling.model_copy(update={"dtype": "float32"})
    source = VariantSource(prior, settings, None, device, checkpoint)
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


def sample_priors(
    settings: PriorSamplesStage,
    device: Device,
    *,
    checkpoints: Mapping[str, str | Path],
    images: Mapping[str, str | Path],
    output: str | Path,
) -> None:
    """Samples of every diffusion prior, as one array each in an .npz file.

    Args:
        settings: Of the priors by name, and of the sampler for conditional ones.
        device: Device and precision.
        checkpoints: Weights by name of the prior.
        images: Test images by task.
        output: File to write.
    """  # fmt: skip
    rows: dict[str, FloatArray] = {}
    seed = settings.seed
    for name, prior in settings.priors.items():
        if prior.task is not None:
            rows[name] = restorations(
                prior,
                settings.sampling,
                seed,
                device,
                checkpoint=checkpoints[name],
                images=images[prior.task],
                n_images=6,
            )  # fmt: skip
        elif prior.schedule is not None:
            rows[name] = generations(prior, seed, device, checkpoint=checkpoints[name], n_images=12)
    np.savez(output, **rows)  # type: ignore[arg-type]
