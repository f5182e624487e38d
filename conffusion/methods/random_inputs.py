"""Random inputs of one-pass predictors and samplers: pure functions of (seed, task, image id)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import FloatArray
from conffusion.core.randomness import keyed_generator, keyed_normal


def image_noise(
    purpose: str, seed: int, task: str, image_ids: Sequence[str], image_shape: tuple[int, ...], *, call: str = ""
) -> FloatArray:
    """Standard normal noise of every image.

    Args:
        purpose: "fill" (what a hole is filled with; the same for every method) or "forward" (noise added to the input).
        seed: The run's seed.
        task: Name of the task.
        image_ids: One per image.
        image_shape: (C, H, W).
        call: Draws other noise for every name; "" is the noise that belongs to the image.
    Returns:
        (N, C, H, W) float32.
    """
    salt = (call,) if call else ()
    return np.stack([keyed_normal(image_shape, purpose, seed, task, image_id, *salt) for image_id in image_ids])


def image_classes(
    seed: int, task: str, image_ids: Sequence[str], n_classes: int, *, call: str = ""
) -> npt.NDArray[np.int64]:
    """A class for every image, (N,), uniform over 0 .. n_classes - 1: a generic prior does not know the right one."""
    salt = (call,) if call else ()
    draws = [keyed_generator("class", seed, task, image_id, *salt).integers(n_classes) for image_id in image_ids]
    return np.array(draws, dtype=np.int64)
