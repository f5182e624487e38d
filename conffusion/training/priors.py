"""Training the small priors that the default run starts from."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conffusion.compute import Compute
from conffusion.config.schema import PriorSettings
from conffusion.data.faces import render_faces
from conffusion.data.photos import PhotoPatches
from conffusion.data.resize import from_uint8, to_uint8
from conffusion.models.checkpoint import save_checkpoint
from conffusion.models.networks import Architecture
from conffusion.randomness import keyed_generator
from conffusion.tasks import build_task
from conffusion.training.loop import Optimisation
from conffusion.training.pretrain import PretrainingImages, classification_objective, diffusion_objective, pretrain

LOGGER = logging.getLogger(__name__)
CHUNK = 2000


def architecture_of(prior: PriorSettings) -> Architecture:
    """The network that a prior's settings describe."""
    schedule = prior.schedule.model_dump() if prior.schedule else None
    return Architecture(prior.network, prior.options, schedule)


def write_prior(
    name: str,
    prior: PriorSettings,
    degradation: Mapping[str, Any],
    *,
    image_size: int,
    seed: int,
    compute: Compute,
    output: str | Path,
) -> None:
    """Train a prior and write its checkpoint in half precision; no two priors share random numbers."""
    own_seed = int(keyed_generator("prior", seed, name).integers(2**31))
    weights, record = train_prior(prior, degradation, image_size, own_seed, compute)
    save_checkpoint(output, weights, record, dtype=torch.float16)


def train_prior(
    prior: PriorSettings, degradation: Mapping[str, Any], image_size: int, seed: int, compute: Compute
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train one prior from scratch.

    Args:
        prior: What to train, on what, for how long.
        degradation: Settings of the task whose corrupted images a conditional prior is shown.
        image_size: Side of the images, pixels.
        seed: Everything random follows from it.
        compute: Device and precision.
    Returns:
        Averaged weights, and the record that goes into the checkpoint: architecture, settings, loss curve, seconds.
    """
    torch.manual_seed(seed)
    architecture = architecture_of(prior)
    schedule = architecture.build_schedule()
    images = _prepare_images(prior, degradation, image_size, seed)
    network = compute.place(architecture.build_prior())
    if schedule is None:
        objective = classification_objective(network, images, compute)
    else:
        objective = diffusion_objective(network, architecture.kind, images, schedule, compute, seed)
    settings = Optimisation(prior.n_steps, prior.batch_size, prior.learning_rate, prior.ema)
    start = time.monotonic()
    losses = pretrain(network, objective, prior.n_images, settings, seed)
    training = {**prior.model_dump(), "seed": seed, "seconds": round(time.monotonic() - start), "losses": losses}
    return network.state_dict(), {"architecture": architecture.record(), "training": training}


def _prepare_images(
    prior: PriorSettings, degradation: Mapping[str, Any], image_size: int, seed: int
) -> PretrainingImages:
    LOGGER.info("rendering %d images", prior.n_images)
    target, labels = _render(prior, image_size, seed)
    if prior.task is None:
        return PretrainingImages(target, None, labels, has_holes=False)
    task = build_task(prior.task, **degradation)
    if task.known_outside:  # holes are cut anew at every step
        return PretrainingImages(target, None, None, has_holes=True)
    chunks = [slice(start, start + CHUNK) for start in range(0, len(target), CHUNK)]
    ids = [f"pretraining-{k}" for k in range(len(target))]
    condition = [to_uint8(task.apply(from_uint8(target[chunk]), ids[chunk], seed)[0]) for chunk in chunks]
    return PretrainingImages(target, np.concatenate(condition), None, has_holes=False)


def _render(prior: PriorSettings, image_size: int, seed: int) -> tuple[Any, Any]:
    chunks = [range(start, min(start + CHUNK, prior.n_images)) for start in range(0, prior.n_images, CHUNK)]
    if prior.images == "faces":
        return np.concatenate([render_faces(chunk, image_size, population="wide", seed=seed) for chunk in chunks]), None
    patches = PhotoPatches(image_size, seed)
    images, labels = zip(*(patches.batch(chunk) for chunk in chunks), strict=True)
    return np.concatenate(images), np.concatenate(labels)
