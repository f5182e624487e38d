"""What adapters share."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

from conffusion.core.randomness import key_digest
from conffusion.errors import ConfigError

SMALLEST_NUMBER = 2  # of samples: quantiles of one say nothing


def needed_library(name: str) -> ModuleType:
    """A library that conffusion does not install.

    Raises:
        ConfigError: If it is missing; says how to install it.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} cannot be imported ({error}): pip install {name}") from error


def sample_seed(seed: int, image: Any, number: int) -> int:
    """Seed of one sample, in [0, 2^32): a function of the seed and of the image's content."""
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    return int(key_digest("sample", seed, digest, number)[0] >> np.uint64(32))


@contextmanager
def seeded(seed: int, image: Any, number: int) -> Iterator[int]:
    """Random numbers of torch that are those of one sample; put back afterwards. Yields their seed."""
    with torch.random.fork_rng():
        own = sample_seed(seed, image, number)
        torch.manual_seed(own)
        yield own


def check_n_samples(n_samples: int) -> None:
    """Raise ConfigError if quantiles of so many samples say nothing."""
    if n_samples < SMALLEST_NUMBER:
        raise ConfigError(f"n_samples = {n_samples}: must be at least {SMALLEST_NUMBER}")
