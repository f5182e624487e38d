"""Training the small priors that the default run starts from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conffusion.config.schema import PriorSettings, PriorTraining
from conffusion.core.device import Device
from conffusion.core.progress import Progress
from conffusion.core.randomness import keyed_generator
from conffusion.data.photos import PhotoPatches
from conffusion.demo import render_faces
from conffusion.errors import ConfigError
from conffusion.images.resize import from_uint8, to_uint8
from conffusion.models.checkpoint import save_checkpoint
from conffusion.models.networks import Architecture
from conffusion.store import SealedStore, open_store, read_array
from conffusion.tasks import Task, build_task
from conffusion.training.loop import Optimisation, Problem, seed_everything
from conffusion.training.pretrain import Classification, NoisePrediction, PretrainingImages, pretrain
from conffusion.training.state import StateFolder

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
    device: Device,
    output: str | Path,
    images: str | Path | None = None,
    states: StateFolder | None = None,
) -> None:
    """Train a prior and write its checkpoint in half precision; no two priors share random numbers.

    `images` is the store of the split finetune, for priors that are trained on it (`training.images: dataset`).
    Training goes on from the latest of `states`, if there is one.
    """
    if prior.training is None:
        raise ConfigError(f"priors.{name}.training: is missing, so this prior cannot be trained; set its checkpoint")
    own_seed = int(keyed_generator("prior", seed, name).integers(2**31))
    weights, record = train_prior(prior, degradation, image_size, own_seed, device, images, states)
    save_checkpoint(output, weights, record, dtype=torch.float16)
    if states is not None:
        states.clear()


def train_prior(
    prior: PriorSettings,
    degradation: Mapping[str, Any],
    image_size: int,
    seed: int,
    device: Device,
    own_images: str | Path | None = None,
    states: StateFolder | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train one prior from scratch.

    Args:
        prior: What to train, on what, for how long.
        degradation: Settings of the task whose degraded images a conditional prior is shown, size of the hole included.
        image_size: Side of the images, pixels.
        seed: Everything random follows from it.
        device: Device and precision.
        own_images: Store of the split finetune; see `write_prior`.
        states: Where full states of the training are kept; None: nowhere.
    Returns:
        Averaged weights, and the record that goes into the checkpoint: architecture, settings, loss curve, seconds.
    """
    seed_everything(seed)
    architecture = architecture_of(prior)
    schedule = architecture.build_schedule()
    settings = _training_of(prior)
    if own_images is None:
        images = _rendered_images(prior, degradation, image_size, seed)
    else:
        images = _own_images(prior, degradation, open_store(own_images))
    network = device.place(architecture.build_prior())
    problem: Problem[Any] = Classification(network, images, device)
    if schedule is not None:
        problem = NoisePrediction(network, architecture.kind, images, schedule, device)
    optimisation = Optimisation(settings.n_steps, settings.batch_size, settings.learning_rate, settings.ema)
    losses, seconds = pretrain(problem, optimisation, seed, states)
    training = {
        **settings.model_dump(), "task": prior.task, "seed": seed, "seconds": round(seconds), "losses": losses,
    }  # fmt: skip
    return network.state_dict(), {"architecture": architecture.record(), "training": training}


def _rendered_images(
    prior: PriorSettings, degradation: Mapping[str, Any], image_size: int, seed: int
) -> PretrainingImages:
    target, labels = _render(prior, image_size, seed)
    if prior.task is None:
        return PretrainingImages(target, None, labels)
    task = build_task(prior.task, **degradation)
    if task.has_mask:
        return _with_holes(target, task)
    chunks = [slice(start, start + CHUNK) for start in range(0, len(target), CHUNK)]
    ids = [f"pretraining-{k}" for k in range(len(target))]
    condition = [to_uint8(task.apply(from_uint8(target[chunk]), ids[chunk], seed)[0]) for chunk in chunks]
    return PretrainingImages(target, np.concatenate(condition), None)


def _own_images(prior: PriorSettings, degradation: Mapping[str, Any], store: SealedStore) -> PretrainingImages:
    """The run's own fine-tuning images, the first `training.n_images` of them."""
    rows = slice(0, _training_of(prior).n_images)
    target = to_uint8(read_array(store["target"], rows))
    if prior.task is None:
        return PretrainingImages(target, None, np.zeros(len(target), dtype=np.int64))
    task = build_task(prior.task, **degradation)
    if task.has_mask:
        return _with_holes(target, task)
    return PretrainingImages(target, to_uint8(read_array(store["condition"], rows)), None)


def _with_holes(target: npt.NDArray[np.uint8], task: Task) -> PretrainingImages:
    """Images in which training cuts new holes at every step."""
    return PretrainingImages(target, None, None, hole=task.mask(target.shape)[0, 0])


def _render(prior: PriorSettings, image_size: int, seed: int) -> tuple[Any, Any]:
    settings = _training_of(prior)
    chunks = [range(start, min(start + CHUNK, settings.n_images)) for start in range(0, settings.n_images, CHUNK)]
    progress = Progress("making images", settings.n_images, unit="images")
    if settings.images == "faces":
        portraits = []
        for chunk in chunks:
            portraits.append(render_faces(chunk, image_size, population="wide", seed=seed))
            progress.update(len(chunk))
        return np.concatenate(portraits), None
    patches, parts = PhotoPatches(image_size, seed), []
    for chunk in chunks:
        parts.append(patches.batch(chunk))
        progress.update(len(chunk))
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _training_of(prior: PriorSettings) -> PriorTraining:
    if prior.training is None:
        raise ValueError("this prior has no training settings")  # refused with a clear message before
    return prior.training
