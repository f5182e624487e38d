"""Pretraining of the priors: diffusion networks predict noise, encoders tell photographs apart."""

import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conffusion.core.device import Device
from conffusion.models.denoiser import LEVEL_INPUTS
from conffusion.models.schedules import NoiseSchedule
from conffusion.tasks.task import MaskArray
from conffusion.training.loop import Batch, Optimisation, Problem, Training
from conffusion.training.state import StateFolder

LOGGER = logging.getLogger(__name__)
RECORD_EVERY = 100  # steps between two records of the loss


@dataclass(frozen=True)
class PretrainingImages:
    """Images in memory, uint8 to save space.

    Attributes:
        target: (N, C, H, W) uint8 clean images.
        condition: (N, C, H, W) uint8 degraded images of a conditional prior, else None.
        labels: (N,) int64 classes, else None.
        hole: (H, W) mask of a task that lacks the pixels where it is 1: training cuts holes of about that size, which
            the condition shows as noise (Palette); None where nothing is missing.
    """

    target: Any
    condition: Any | None
    labels: Any | None
    hole: MaskArray | None = None


@dataclass(frozen=True)
class NoisedBatch(Batch):
    """Clean images and all that is random in one step of diffusion training; (N, C, H, W) in [-1, 1] unless said.

    Attributes:
        clean: Clean images.
        condition: What a conditional network is shown beside the noisy image, holes filled; else None.
        hole: 1 where the image is noised, 0 where it stays clean.
        noise: Standard normal.
        abar: (N,) squared signal levels.
        timesteps: (N,) float, steps of the schedule that the network was trained on.
        labels: (N,) classes, else None.
    """

    clean: Tensor
    condition: Tensor | None
    hole: Tensor
    noise: Tensor
    abar: Tensor
    timesteps: Tensor
    labels: Tensor | None


class NoisePrediction(Problem[NoisedBatch]):
    """Squared error of the predicted noise (Ho et al. 2020, eq. 14), only inside the hole where there is one.

    The noise level is uniform within a uniformly drawn step, as SR3 and Palette train (Chen et al. 2021), so the
    network can be asked at any level; "adm" gets the step itself.

    Args:
        network: A diffusion network, on the device.
        kind: "sr3", "palette" or "adm".
        images: Training images.
        schedule: Noise levels.
        device: Device and precision.
    """

    def __init__(
        self, network: nn.Module, kind: str, images: PretrainingImages, schedule: NoiseSchedule, device: Device
    ) -> None:
        self.network, self.n_images = network, len(images.target)
        self._kind, self._images, self._schedule, self._device = kind, images, schedule, device
        self._abars = torch.as_tensor(np.append(1.0, schedule.alphas_cumprod), dtype=torch.float32)

    def draw(self, rows: Tensor, generator: torch.Generator) -> NoisedBatch:
        """Noisy images at random levels, with random holes where the task has one."""
        images, n_images = self._images, len(rows)
        clean = _pm1(images.target, rows, self._device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        steps = torch.randint(self._schedule.n_timesteps, (n_images,), generator=generator)
        position = torch.zeros(n_images) if self._kind == "adm" else torch.rand(n_images, generator=generator)
        abar = torch.lerp(self._abars[steps + 1], self._abars[steps], position).to(clean.device)
        hole, condition = torch.ones_like(clean), None
        if images.hole is not None:
            hole = random_holes(images.hole, clean.shape, generator).to(clean.device)
        if images.condition is not None:
            condition = _pm1(images.condition, rows, self._device)
        elif images.hole is not None:
            fill = torch.randn(clean.shape, generator=generator).to(clean.device)
            condition = clean * (1 - hole) + fill * hole
        labels = None if images.labels is None else torch.as_tensor(images.labels)[rows].to(clean.device)
        timesteps = torch.as_tensor(self._schedule.timestep_map)[steps].float().to(clean.device)
        return NoisedBatch(clean, condition, hole, noise, abar, timesteps, labels)

    def loss(self, batch: NoisedBatch) -> Tensor:
        """Mean squared error over the holes."""
        return (noise_residual(self.network, self._kind, batch, self._device) ** 2).sum() / batch.hole.sum()


def noise_residual(network: nn.Module, kind: str, batch: NoisedBatch, device: Device) -> Tensor:
    """Error of the predicted noise inside the hole, (N, C, H, W), and 0 elsewhere."""
    signal, spread = batch.abar.sqrt()[:, None, None, None], (1 - batch.abar).sqrt()[:, None, None, None]
    x_t = (signal * batch.clean + spread * batch.noise) * batch.hole + batch.clean * (1 - batch.hole)
    inputs = x_t if batch.condition is None else torch.cat([batch.condition, x_t], dim=1)
    with device.autocast():
        prediction = network(inputs, LEVEL_INPUTS[kind](batch.abar, batch.timesteps), batch.labels)
    return (prediction.float() - batch.noise) * batch.hole


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """Images (N, C, H, W) in [-1, 1] and their classes (N,)."""

    images: Tensor
    labels: Tensor


class Classification(Problem[LabelledBatch]):
    """Cross-entropy of the class of each image, which is the photograph it was cut from.

    Args:
        network: An encoder with its classifier, on the device.
        images: Training images with labels.
        device: Device and precision.
    """

    def __init__(self, network: nn.Module, images: PretrainingImages, device: Device) -> None:
        self.network, self.n_images = network, len(images.target)
        self._images, self._device = images, device

    def draw(self, rows: Tensor, generator: torch.Generator) -> LabelledBatch:
        """Images and labels of these rows; nothing is random."""
        labels = torch.as_tensor(self._images.labels)[rows].to(self._device.torch_device)
        return LabelledBatch(_pm1(self._images.target, rows, self._device), labels)

    def loss(self, batch: LabelledBatch) -> Tensor:
        """Mean cross-entropy."""
        with self._device.autocast():
            logits = self.network(batch.images)
        return F.cross_entropy(logits.float(), batch.labels)


def pretrain(
    problem: Problem[Any], settings: Optimisation, seed: int, states: StateFolder | None = None
) -> tuple[list[dict[str, float]], float]:
    """Minimise a problem over shuffled epochs; its network ends up with the averaged weights, in evaluation mode.

    Args:
        problem: `NoisePrediction` or `Classification`.
        settings: Optimiser settings.
        seed: Data order and noise follow from it.
        states: Where full states of the training are kept, and the latest is looked for; None: nowhere.
    Returns:
        Records {step, loss}, the mean loss of every `RECORD_EVERY` steps, and the seconds that the training took, those
        before an interruption included.
    """
    training = Training(problem, settings, seed, noise_seed=seed + 1)
    start = states.latest() if states else None
    before, began = 0.0, time.monotonic()
    if start is not None:
        training.restore(start)
        before = start["seconds"]
    for step in training.run("pretraining", RECORD_EVERY):
        LOGGER.info("step %d: loss %.5f", step, training.losses[-1]["loss"])
        if states is not None and states.is_due():
            states.save(step, {**training.state(), "seconds": before + time.monotonic() - began})
    training.keep_average()
    return training.losses, before + time.monotonic() - began


def _pm1(images: Any, rows: Tensor, device: Device) -> Tensor:
    batch = torch.as_tensor(images[rows.numpy()]).to(device.torch_device, torch.float32) / 127.5 - 1
    return batch.contiguous(memory_format=torch.channels_last)


def random_holes(hole: MaskArray, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Masks of a batch: for half of the images the task's own, for half a box of 80 to 120 % of its sides anywhere.

    Args:
        hole: (H, W), 1 in the task's own hole.
        shape: (N, C, H, W) of the images.
        generator: Four uniform numbers are drawn for each image.
    Returns:
        (N, C, H, W) float32, 1 in the holes.
    """
    n_images, channels, height, width = shape
    own = torch.as_tensor(hole, dtype=torch.float32)
    share_of_height, share_of_width = float(hole.any(axis=1).mean()), float(hole.any(axis=0).mean())
    masks = own.repeat(n_images, 1, 1, 1)
    for mask, (choice, size, top, left) in zip(
        masks, torch.rand(n_images, 4, generator=generator).tolist(), strict=True
    ):
        if choice < 0.5:
            continue
        rows, columns = (min(share * (0.8 + 0.4 * size), 1.0) for share in (share_of_height, share_of_width))
        box = torch.tensor([top * (1 - rows), left * (1 - columns), rows, columns])
        y, x, n_rows, n_columns = (box * torch.tensor([height, width, height, width])).round().int().tolist()
        mask.zero_()
        mask[:, y : y + n_rows, x : x + n_columns] = 1
    return masks.expand(-1, channels, -1, -1)
