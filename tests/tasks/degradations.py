"""Degradations as a user would write them."""

import numpy as np


def speckle(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Multiplicative noise."""
    return np.clip(image * (1 + 0.3 * generator.standard_normal(image.shape)), 0, 1)


def greedy(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Alters what it is given."""
    image[:] = 0.25
    return image


def divides(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return image / np.zeros(3)  # shapes do not fit


def shrinks(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return image[:, ::2, ::2]


def overflows(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return image + 1


def breaks(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.full_like(image, np.nan)


def forgets(image: np.ndarray, generator: np.random.Generator) -> None:
    np.clip(image, 0, 1)


NUMBER = 3
