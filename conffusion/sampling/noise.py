"""Counter-based noise of sampling chains: a pure function of (key, step, pixel) on every device.

The random bits are Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): NumPy's on the
CPU, the same ones computed where the network runs on a GPU, so that no noise has to travel there. Box and Muller's
transform in float64 makes normal numbers of them, which therefore agree between devices to the last bit or two.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from conffusion.core.randomness import key_digest

_WORDS_PER_BLOCK = 4  # one count of Philox makes four 64-bit words, and each word two normal numbers
_LOW_32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_N_ROUNDS = 10


class ChainNoise:
    """Standard normal noise of a batch of chains, step by step.

    Args:
        names: What each chain's noise is a function of: (seed, task, image id, variant number).
        shape: (C, H, W) of one chain's image.
        device: Where the noise is made.
    """

    def __init__(self, names: Sequence[tuple[str | int, ...]], shape: tuple[int, ...], device: torch.device) -> None:
        self._shape, self._device = shape, device
        self._n_blocks = math.ceil(math.prod(shape) / (2 * _WORDS_PER_BLOCK))  # of one step
        keys = np.stack([key_digest("variant", *name) for name in names])
        self._on_cpu = device.type == "cpu"
        self._streams = [np.random.Philox(key=key) for key in keys] if self._on_cpu else []
        self._keys = torch.from_numpy(keys.view(np.int64)).to(device)
        self._step = 0

    def __call__(self, step: int) -> Tensor:
        """(N, C, H, W) float32 noise of a step; steps must be asked for in order, without gaps, from 0.

        Raises:
            ValueError: If `step` is not the next one.
        """
        if step != self._step:
            raise ValueError(f"noise of step {step} asked for, the next one is {self._step}")
        self._step += 1
        words = self._numpy_words() if self._on_cpu else philox_words(self._keys, step * self._n_blocks, self._n_blocks)
        normal = box_muller(words)[:, : math.prod(self._shape)]
        return normal.reshape(len(words), *self._shape)

    def _numpy_words(self) -> Tensor:
        n_words = self._n_blocks * _WORDS_PER_BLOCK
        words = np.empty((len(self._streams), n_words), dtype=np.uint64)
        for row, stream in zip(words, self._streams, strict=True):
            row[:] = stream.random_raw(n_words)
        return torch.from_numpy(words.view(np.int64))


def philox_words(keys: Tensor, first_block: int, n_blocks: int) -> Tensor:
    """Random bits of consecutive counts of Philox4x64-10, as `numpy.random.Philox(key).random_raw` gives them.

    Args:
        keys: (N, 2) int64, the bits of each chain's 128-bit key.
        first_block: Blocks of the stream to skip.
        n_blocks: Blocks of four words to make.
    Returns:
        (N, 4 n_blocks) int64, the bits of unsigned words, on the device of `keys`.
    """
    zero = torch.zeros((), dtype=torch.int64, device=keys.device)
    first = torch.arange(first_block + 1, first_block + n_blocks + 1, device=keys.device)[None]  # NumPy counts from 1
    counter = (first, zero, zero, zero)
    key = (keys[:, :1], keys[:, 1:])
    for _ in range(_N_ROUNDS):
        (high_0, low_0), (high_1, low_1) = (
            _multiply(counter[2 * k], multiplier) for k, multiplier in enumerate(_MULTIPLIERS)
        )
        counter = (high_1 ^ counter[1] ^ key[0], low_1, high_0 ^ counter[3] ^ key[1], low_0)
        key = (key[0] + _signed(_KEY_STEPS[0]), key[1] + _signed(_KEY_STEPS[1]))
    return torch.stack(torch.broadcast_tensors(*counter), dim=-1).flatten(1)


def box_muller(words: Tensor) -> Tensor:
    """Standard normal float32 numbers, two of every 64-bit word: (N, n) int64 -> (N, 2 n).

    The halves of a word are uniform numbers u and v in (0, 1); sqrt(-2 log u) times cosine and sine of 2 pi v are
    normal (Box and Muller 1958). The largest possible one is 6.8.
    """
    radius = _uniform(words & _LOW_32).log_().mul_(-2).sqrt_()
    angle = _uniform((words >> 32) & _LOW_32).mul_(2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1).float()


def _uniform(integers: Tensor) -> Tensor:
    return integers.double().add_(0.5).mul_(2.0**-32)


def _multiply(values: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low half of the 128-bit products of unsigned 64-bit numbers, all kept in int64."""
    value_high, value_low = (values >> 32) & _LOW_32, values & _LOW_32
    high, low = multiplier >> 32, multiplier & _LOW_32
    middle = value_high * low + (((value_low * low) >> 32) & _LOW_32)
    other = value_low * high + (middle & _LOW_32)
    top = value_high * high + ((middle >> 32) & _LOW_32) + ((other >> 32) & _LOW_32)
    return top, values * _signed(multiplier)


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned word."""
    return word - (1 << 64) if word >> 63 else word
