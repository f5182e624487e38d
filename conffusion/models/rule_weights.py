"""Weights by a rule instead of training, to try networks and workflows at full size without their checkpoints."""

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def fill_by_rule(module: nn.Module, *, prefix: str = "", salt: str = "") -> None:
    """Give every parameter a value that depends on its name alone; buffers stay.

    Normal noise seeded by the name: scaled by 1 / sqrt(fan) in tensors of two and more dimensions, 1 + 0.1 z in gains
    of norms, 0.1 z in biases; the activations of any network then stay in a sensible range.

    Args:
        module: Changed in place.
        prefix: What stands before the module's own names in a checkpoint file; part of the seed.
        salt: Another salt gives other weights.
    Source:
        The rule of the conformance fixtures (tests/fixtures/conformance/README.md).
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(_value(salt + prefix + name, parameter))


def _value(key: str, like: Tensor) -> Tensor:
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    noise = torch.from_numpy(generator.standard_normal(tuple(like.shape)).astype(np.float32))
    if like.ndim > 1:
        return noise / like[0].numel() ** 0.5
    return 0.1 * noise + (1.0 if key.endswith("weight") else 0.0)
