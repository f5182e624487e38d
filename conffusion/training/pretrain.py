"""Pretraining of the priors: diffusion networks predict noise, encoders tell photographs apart."""

import logging
from collections.abc import Callable, Iterator
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
        has_holes: Whether training cuts random holes, which the condition shows as noise (Palette).
    """

    target: Any
    condition: Any | None
    labels: Any | None
    has_holes: bool


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
        hole = _random_holes(x0.shape, generator).to(x0.device) if images.has_holes else torch.ones_like(x0)
        condition = None
        if images.condition is not None:
            condition = _pm1(images.condition, rows, device)
        elif images.has_holes:
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


def _random_holes(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Half of the holes are the centre square of half the side, half are boxes of 40 to 60 % at random places."""
    n_images, channels, height, width = shape
    masks = torch.zeros(n_images, 1, height, width)
    for mask, box in zip(masks, _boxes(n_images, generator), strict=True):
        top, left, rows, columns = (box * torch.tensor([height, width, height, width])).round().int().tolist()
        mask[:, top : top + rows, left : left + columns] = 1
    return masks.expand(-1, channels, -1, -1)


def _boxes(n_images: int, generator: torch.Generator) -> Iterator[Tensor]:
    """(top, left, height, width) of each hole, as shares of the image's sides."""
    for centred, side, top, left in torch.rand(n_images, 4, generator=generator).tolist():
        share = 0.5 if centred < 0.5 else 0.4 + 0.2 * side
        corner = (0.25, 0.25) if centred < 0.5 else (top * (1 - share), left * (1 - share))
        yield torch.tensor([*corner, share, share])
