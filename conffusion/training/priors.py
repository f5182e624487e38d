"""Training the small priors that the default run starts from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

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


@dataclass(frozen=True)
class PriorJob:
    """Everything that decides what the training of a prior computes.

    Attributes:
        name: Name of the prior; no two priors share random numbers.
        prior: What to train, on what, for how long.
        degradation: Settings of the task whose degraded images a conditional prior is shown, size of the hole included.
        image_size: Side of the images, pixels.
        seed: The run's seed.
    """

    name: str
    prior: PriorSettings
    degradation: Mapping[str, Any]
    image_size: int
    seed: int

    @property
    def own_seed(self) -> int:
        """Seed of this prior, from which everything random follows."""
        return int(keyed_generator("prior", self.seed, self.name).integers(2**31))

    @property
    def training(self) -> PriorTraining:
        """How the network is trained.

        Raises:
            ConfigError: If the configuration does not say.
        """
        if self.prior.training is None:
            raise ConfigError(
                f"priors.{self.name}.training: is missing, so this prior cannot be trained; set its checkpoint"
            )
        return self.prior.training


def write_prior(
    job: PriorJob,
    device: Device,
    *,
    output: str | Path,
    images: str | Path | None = None,
    states: StateFolder | None = None,
) -> None:
    """Train a prior from scratch and write its checkpoint in half precision.

    The checkpoint holds the averaged weights, and a record: architecture, settings, loss curve, seconds.

    Args:
        job: What to train.
        device: Device and precision.
        output: File to write.
        images: Store of the split finetune, for priors that are trained on it (`training.images: dataset`).
        states: Where full states of the training are kept, and the latest is looked for; None: nowhere.
    Raises:
        ConfigError: If the configuration does not say how to train it.
    """
    settings, seed = job.training, job.own_seed
    seed_everything(seed)
    architecture = architecture_of(job.prior)
    schedule = architecture.build_schedule()
    data = _rendered_images(job) if images is None else _own_images(job, open_store(images))
    network = device.place(architecture.build_prior())
    problem: Problem[Any] = Classification(network, data, device)
    if schedule is not None:
        problem = NoisePrediction(network, architecture.kind, data, schedule, device)
    optimisation = Optimisation(settings.n_steps, settings.batch_size, settings.learning_rate, settings.ema)
    losses, seconds = pretrain(problem, optimisation, seed, states)
    training = {
        **settings.model_dump(), "task": job.prior.task, "seed": seed, "seconds": round(seconds), "losses": losses,
    }  # fmt: skip
    record = {"architecture": architecture.record(), "training": training}
    save_checkpoint(output, network.state_dict(), record, dtype=torch.float16)
    if states is not None:
        states.clear()


def _rendered_images(job: PriorJob) -> PretrainingImages:
    target, labels = _render(job)
    if job.prior.task is None:
        return PretrainingImages(target, None, labels)
    task = build_task(job.prior.task, **job.degradation)
    if task.has_mask:
        return _with_holes(target, task)
    chunks = [slice(start, start + CHUNK) for start in range(0, len(target), CHUNK)]
    ids = [f"pretraining-{k}" for k in range(len(target))]
    condition = [to_uint8(task.apply(from_uint8(target[chunk]), ids[chunk], job.own_seed)[0]) for chunk in chunks]
    return PretrainingImages(target, np.concatenate(condition), None)


def _own_images(job: PriorJob, store: SealedStore) -> PretrainingImages:
    """The run's own fine-tuning images, the first `training.n_images` of them."""
    rows = slice(0, job.training.n_images)
    target = to_uint8(read_array(store["target"], rows))
    if job.prior.task is None:
        return PretrainingImages(target, None, np.zeros(len(target), dtype=np.int64))
    task = build_task(job.prior.task, **job.degradation)
    if task.has_mask:
        return _with_holes(target, task)
    return PretrainingImages(target, to_uint8(read_array(store["condition"], rows)), None)


def _with_holes(target: npt.NDArray[np.uint8], task: Task) -> PretrainingImages:
    """Images in which training cuts new holes at every step."""
    return PretrainingImages(target, None, None, hole=task.mask(target.shape)[0, 0])


def _render(job: PriorJob) -> tuple[Any, Any]:
    """Images, (N, C, H, W) uint8, and labels, (N,), or None for portraits."""
    n_images = job.training.n_images
    chunks = [range(start, min(start + CHUNK, n_images)) for start in range(0, n_images, CHUNK)]
    progress = Progress("making images", n_images, unit="images")
    patches = PhotoPatches(job.image_size, job.own_seed) if job.training.images != "faces" else None
    parts: list[tuple[Any, Any]] = []
    for chunk in chunks:
        if patches is None:
            parts.append((render_faces(chunk, job.image_size, population="wide", seed=job.own_seed), None))
        else:
            parts.append(patches.batch(chunk))
        progress.update(len(chunk))
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), None if patches is None else np.concatenate(labels)
