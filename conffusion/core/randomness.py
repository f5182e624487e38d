"""Random numbers that are a pure function of named keys, whatever the batch, shard or order."""

import hashlib

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import FloatArray


def keyed_generator(*keys: str | int) -> np.random.Generator:
    """Counter-based generator whose stream depends on `keys` alone.

    Args:
        keys: Seed, task, image id, purpose, variant index and the like; order matters.
    Returns:
        A Philox generator keyed with `key_digest` of the keys.
    """
    return np.random.Generator(np.random.Philox(key=key_digest(*keys)))


def key_digest(*keys: str | int) -> npt.NDArray[np.uint64]:
    """128 bits of the BLAKE2b digest of named keys, as two words: the key of a counter-based generator."""
    plain = [key.item() if isinstance(key, np.generic) else key for key in keys]
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in plain)
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), dtype=np.uint64)


def keyed_normal(shape: tuple[int, ...], *keys: str | int) -> FloatArray:
    """Standard normal float32 array of `shape`, a pure function of `keys`."""
    return keyed_generator(*keys).standard_normal(shape, dtype=np.float32)
