"""Simulated images with bounds, and set families with a shape, for the tests of calibration."""

import numpy as np

from conffusion.calibration import Family
from conffusion.calibration.krcps import PixelGroups
from conffusion.calibration.learned import LearnedScale
from tests.conformance import Array


def images(n_images: int, shape: tuple[int, ...] = (3, 8, 8), seed: int = 0) -> list[Array]:
    """(lower, upper, target) float32 in [0, 1], whose relative error is four times as large where the level is high.

    Errors also share a factor within each image, as those of restored images do.
    """
    generator = np.random.default_rng(seed)
    level = generator.uniform(0.2, 0.8, (n_images, *shape))
    half = generator.uniform(0.03, 0.05, level.shape)
    error = half * generator.normal(size=level.shape) * np.where(level > 0.5, 1.2, 0.3)
    error *= generator.uniform(0.7, 1.3, (n_images, *(1 for _ in shape)))
    return [array.clip(0, 1).astype(np.float32) for array in (level - half, level + half, level + error)]


def learned_scale(n_channels: int = 3, seed: int = 0, size: float = 1.0) -> LearnedScale:
    """A shape with random weights, so that ends move by anything between 1/2 and 3."""
    generator, n_features = np.random.default_rng(seed), 37 + 3 * n_channels
    mean, deviation = generator.normal(size=n_features), generator.uniform(0.5, 2, n_features)
    layers = generator.normal(size=(n_features + 1, 32)) * 0.2, size * generator.normal(size=(33, 2))
    return LearnedScale(1.3, *(array.astype(np.float32) for array in (mean, deviation, *layers)))


def pixel_groups(shape: tuple[int, ...] = (3, 8, 8), seed: int = 0) -> PixelGroups:
    """Random groups with offsets that widen or narrow, and some positions that are never moved."""
    generator = np.random.default_rng(seed)
    return PixelGroups(generator.integers(-1, 4, shape), np.array([-0.03, 0.0, 0.02, 0.1]))


def family(name: str, shape: tuple[int, ...] = (3, 8, 8), seed: int = 0) -> Family:
    """The family of that name; where it has a shape, a random one."""
    if name == "learned":
        return Family(name, learned_scale(shape[0], seed))
    return Family(name, pixel_groups(shape, seed) if name == "pixel_groups" else None)
