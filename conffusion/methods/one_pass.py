"""Bounds of many images, one forward pass each."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from conffusion.core.arrays import FloatArray, to_pm1
from conffusion.core.device import BatchLimit, Device
from conffusion.core.progress import Progress
from conffusion.methods.predictor import BoundPredictor
from conffusion.methods.quirks import NO_QUIRK, Quirk
from conffusion.tasks import DegradedImages


class RawBounds(NamedTuple):
    """Before calibration: images (N, C, H, W) float32 in [0, 1]."""

    point: FloatArray
    lower: FloatArray
    upper: FloatArray


def predict_bounds(
    predictor: BoundPredictor,
    images: DegradedImages,
    device: Device,
    batch_size: int = 100,
    *,
    quirk: Quirk = NO_QUIRK,
) -> tuple[FloatArray, FloatArray, float]:
    """Uncalibrated bounds of every image.

    The noise and class that the network is shown depend on (seed, task, image id) alone.

    Args:
        predictor: Placed on the device; ends in evaluation mode.
        images: What to predict bounds for.
        device: Device and precision.
        batch_size: Images at a time, at most; fewer where memory runs out.
        quirk: A quirk of the official code to repeat.
    Returns:
        lower and upper, (N, C, H, W) float32 in [0, 1], and the seconds per image of the forward passes: the median
        over batches, so that a slow first one (libraries choose their kernels in it) does not count.
    """
    parts = iterate_bounds(predictor, images, device, batch_size, quirk=quirk)
    lower, upper, seconds = zip(*parts, strict=True)
    return np.concatenate(lower), np.concatenate(upper), float(np.median(seconds))


def iterate_bounds(
    predictor: BoundPredictor,
    images: DegradedImages,
    device: Device,
    batch_size: int = 100,
    *,
    quirk: Quirk = NO_QUIRK,
) -> Iterator[tuple[FloatArray, FloatArray, float]]:
    """As `predict_bounds`, batch by batch in order: lower, upper, and the seconds per image of the batch."""
    progress = Progress(f"predicting {images.task.name}", len(images), unit="images", part=True)
    with quirk.applied(predictor, images.seed):
        for part in BatchLimit(batch_size).stream(
            range(len(images)), lambda rows: _predict(predictor, images, device, rows, quirk.call)
        ):
            progress.update(len(part[0]))
            yield part


def _predict(
    predictor: BoundPredictor, images: DegradedImages, device: Device, rows: Sequence[int], call: str
) -> tuple[FloatArray, FloatArray, float]:
    """Bounds of consecutive images, and seconds per image."""
    start = time.perf_counter()
    bounds = forward(predictor, images.part(slice(rows[0], rows[-1] + 1)), device, call)
    return bounds.lower, bounds.upper, (time.perf_counter() - start) / len(rows)


def forward(predictor: BoundPredictor, images: DegradedImages, device: Device, call: str = "") -> RawBounds:
    """One forward pass for images in memory; `call` as in `DegradedImages.noise`."""
    noise = device.tensor(images.noise(predictor.noise_purpose, call=call))
    n_classes, labels = getattr(predictor.network, "n_classes", 0), None
    if n_classes:
        labels = torch.as_tensor(images.classes(n_classes, call=call)).to(device.torch_device)
    with torch.inference_mode(), device.autocast():
        bounds = predictor(device.tensor(to_pm1(images.condition)), device.tensor(images.mask), noise, labels)
    return RawBounds(*(_to_numpy_01(image) for image in bounds))


def _to_numpy_01(bound_pm1: torch.Tensor) -> FloatArray:
    return ((bound_pm1.float() + 1) / 2).clamp(0, 1).cpu().numpy()
