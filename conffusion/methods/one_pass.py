"""Bounds of many images, one forward pass each."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from conffusion.core.arrays import ArrayLike, FloatArray, to_pm1
from conffusion.core.device import BatchLimit, Device
from conffusion.core.progress import Progress
from conffusion.methods.predictor import BoundPredictor
from conffusion.methods.quirks import NO_QUIRK, Quirk
from conffusion.methods.random_inputs import image_classes, image_noise
from conffusion.store import read_array


class RawBounds(NamedTuple):
    """Before calibration: images (N, C, H, W) float32 in [0, 1]."""

    point: FloatArray
    lower: FloatArray
    upper: FloatArray


@dataclass(frozen=True)
class CorruptedImages:
    """Images to predict bounds for.

    Attributes:
        task: Name of the task, part of the random keys.
        seed: The run's seed, likewise.
        image_ids: One per image, likewise.
        condition: (N, C, H, W) float32 in [0, 1]; NumPy, or zarr, which is read batch by batch.
        mask: (N, C, H, W), 1 at evaluated pixels, likewise.
    """

    task: str
    seed: int
    image_ids: Sequence[str]
    condition: ArrayLike
    mask: ArrayLike


def predict_bounds(
    predictor: BoundPredictor,
    images: CorruptedImages,
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
        quirk: An quirk of the official code to repeat.
    Returns:
        lower and upper, (N, C, H, W) float32 in [0, 1], and the seconds per image of the forward passes: the median
        over batches, so that a slow first one (libraries choose their kernels in it) does not count.
    """
    parts = iterate_bounds(predictor, images, device, batch_size, quirk=quirk)
    lower, upper, seconds = zip(*parts, strict=True)
    return np.concatenate(lower), np.concatenate(upper), float(np.median(seconds))


def iterate_bounds(
    predictor: BoundPredictor,
    images: CorruptedImages,
    device: Device,
    batch_size: int = 100,
    *,
    quirk: Quirk = NO_QUIRK,
) -> Iterator[tuple[FloatArray, FloatArray, float]]:
    """As `predict_bounds`, batch by batch in order: lower, upper, and the seconds per image of the batch."""
    progress = Progress(f"predicting {images.task}", len(images.image_ids), unit="images", part=True)
    with quirk.applied(predictor, images.seed):
        for part in BatchLimit(batch_size).stream(
            range(len(images.image_ids)), lambda rows: _predict(predictor, images, device, rows, quirk.call)
        ):
            progress.update(len(part[0]))
            yield part


def _predict(
    predictor: BoundPredictor, images: CorruptedImages, device: Device, rows: Sequence[int], call: str
) -> tuple[FloatArray, FloatArray, float]:
    """Bounds of consecutive images, and seconds per image."""
    start = time.perf_counter()
    bounds = forward(predictor, images, device, slice(rows[0], rows[-1] + 1), call)
    return bounds.lower, bounds.upper, (time.perf_counter() - start) / len(rows)


def forward(
    predictor: BoundPredictor, images: CorruptedImages, device: Device, part: slice, call: str = ""
) -> RawBounds:
    """One forward pass for some of the images; `call` as in `image_noise`."""
    ids, shape = images.image_ids[part], images.condition.shape[1:]
    n_classes = getattr(predictor.network, "n_classes", 0)
    noise = device.tensor(image_noise(predictor.noise_purpose, images.seed, images.task, ids, shape, call=call))
    classes = image_classes(images.seed, images.task, ids, n_classes, call=call) if n_classes else None
    labels = None if classes is None else torch.as_tensor(classes).to(device.torch_device)
    condition, mask = to_pm1(read_array(images.condition, part)), read_array(images.mask, part)
    with torch.inference_mode(), device.autocast():
        bounds = predictor(device.tensor(condition), device.tensor(mask), noise, labels)
    return RawBounds(*(_to_numpy_01(image) for image in bounds))


def _to_numpy_01(bound_pm1: torch.Tensor) -> FloatArray:
    return ((bound_pm1.float() + 1) / 2).clamp(0, 1).cpu().numpy()
