"""Pretraining of the priors: diffusion networks predict noise, encoders tell photographs apart."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conffusion.core.device import Device
from conffusion.core.progress import Progress
from conffusion.models.denoiser import LEVEL_INPUTS
from conffusion.models.schedules import NoiseSchedule
from conffusion.tasks.task import MaskArray
from conffusion.training.loop import FROM_THE_START, Optimisation, Resumption, TrainingRun

LOGGER = logging.getLogger(__name__)
RECORD_EVERY = 100


@dataclass(frozen=True)
class PretrainingImages:
    """Images in memory, uint8 to save space.

    Attributes:
        target: (N, C, H, W) uint8 clean images.
        condition: (N, C, H, W) uint8 corrupted images of a conditional prior, else None.
        labels: (N,) int64 classes, else None.
        hole: (H, W) mask of a task that lacks the pixels where it is 1: training cuts holes of about that size, which
            the condition shows as noise (Palette); None where nothing is missing.
    """

    target: Any
    condition: Any | None
    labels: Any | None
    hole: MaskArray | None = None


@dataclass(frozen=True)
class Objective:
    """A loss of images, given by their row numbers.

    Attributes:
        loss: Row numbers to a scalar.
        generator: What the loss draws random numbers from, if it does.
    """

    loss: Callable[[Tensor], Tensor]
    generator: torch.Generator | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """The loss of these rows."""
        return self.loss(rows)


def pretrain(
    network: nn.Module,
    objective: Objective,
    n_images: int,
    settings: Optimisation,
    seed: int,
    resumption: Resumption = FROM_THE_START,
) -> list[dict[str, float]]:
    """Minimise an objective over shuffled epochs; the network ends up with the averaged weights, in evaluation mode.

    Returns:
        Records {step, loss}: the mean loss of every `RECORD_EVERY` steps.
    """
    run = TrainingRun(network, settings, n_images, seed)
    if resumption.start is not None:
        run.restore(resumption.start)
        if objective.generator is not None:
            objective.generator.set_state(resumption.start["objective"])
    progress = Progress("pretraining", settings.n_steps - run.trainer.step, unit="steps")
    network.train()
    for rows in run.batches:
        run.apply(partial(_backward, objective, rows))
        if run.record(RECORD_EVERY, {settings.n_steps}):
            LOGGER.info("step %d: loss %.5f", run.trainer.step, run.records[-1]["loss"])
            if resumption.is_due():
                drawn = None if objective.generator is None else objective.generator.get_state()
                resumption.save({**run.state(), "objective": drawn})
        progress.update()
    with run.trainer.averaged():
        averaged = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(averaged)
    network.eval()
    return run.records


def _backward(objective: Objective, rows: Tensor) -> Tensor:
    loss = objective(rows)
    loss.backward()
    return loss.detach()


def diffusion_objective(
    network: nn.Module, kind: str, images: PretrainingImages, schedule: NoiseSchedule, device: Device, seed: int
) -> Objective:
    """Squared error of the predicted noise (Ho et al. 2020, eq. 14), only inside the hole where there is one.

    The noise level is uniform within a uniformly drawn step, as SR3 and Palette train (Chen et al. 2021), so the
    network can be asked at any level; "adm" gets the step itself.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    abars = torch.as_tensor(np.append(1.0, schedule.alphas_cumprod), dtype=torch.float32)

    def loss(rows: Tensor) -> Tensor:
        x0 = _pm1(images.target, rows, device)
        noise = torch.randn(x0.shape, generator=generator).to(x0.device)
        steps = torch.randint(schedule.n_timesteps, (len(rows),), generator=generator)
        position = torch.rand(len(rows), generator=generator) if kind != "adm" else torch.zeros(len(rows))
        abar = torch.lerp(abars[steps + 1], abars[steps], position).to(x0.device)
        hole = torch.ones_like(x0)
        if images.hole is not None:
            hole = random_holes(images.hole, x0.shape, generator).to(x0.device)
        condition = None
        if images.condition is not None:
            condition = _pm1(images.condition, rows, device)
        elif images.hole is not None:
            fill = torch.randn(x0.shape, generator=generator).to(x0.device)
            condition = x0 * (1 - hole) + fill * hole
        labels = None if images.labels is None else torch.as_tensor(images.labels)[rows].to(x0.device)
        timesteps = torch.as_tensor(schedule.timestep_map)[steps].float().to(x0.device)
        batch = NoisedBatch(x0, condition, hole, noise, abar, timesteps, labels)
        return (noise_residual(network, kind, batch, device) ** 2).sum() / hole.sum()

    return Objective(loss, generator)


@dataclass(frozen=True)
class NoisedBatch:
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


def noise_residual(network: nn.Module, kind: str, batch: NoisedBatch, device: Device) -> Tensor:
    """Error of the predicted noise inside the hole, (N, C, H, W), and 0 elsewhere."""
    signal, spread = batch.abar.sqrt()[:, None, None, None], (1 - batch.abar).sqrt()[:, None, None, None]
    x_t = (signal * batch.clean + spread * batch.noise) * batch.hole + batch.clean * (1 - batch.hole)
    inputs = x_t if batch.condition is None else torch.cat([batch.condition, x_t], dim=1)
    with device.autocast():
        prediction = network(inputs, LEVEL_INPUTS[kind](batch.abar, batch.timesteps), batch.labels)
    return (prediction.float() - batch.noise) * batch.hole


def classification_objective(network: nn.Module, images: PretrainingImages, device: Device) -> Objective:
    """Cross-entropy of the class of each image, which is the photograph it was cut from."""

    def loss(rows: Tensor) -> Tensor:
        with device.autocast():
            logits = network(_pm1(images.target, rows, device))
        return F.cross_entropy(logits.float(), torch.as_tensor(images.labels)[rows].to(device.torch_device))

    return Objective(loss)


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
