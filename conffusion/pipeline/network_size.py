"""How large a network is, from its settings alone: torch, which knows exactly, would make every dry run wait for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from conffusion.config.schema import PriorSettings


@dataclass(frozen=True)
class NetworkSize:
    """Size of a network with bound heads.

    Attributes:
        n_parameters: Weights and biases, within 15 %.
        n_kept: Values that the backward pass of one image keeps, within 20 %.
    """

    n_parameters: float
    n_kept: float


# Encoders with decoder and classifier (1,000 classes; the small ones have 9), counted: parameters, and values kept per
# pixel of the image.
_ENCODERS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "resnext_small": (0.64e6, 490),
        "resnest_small": (0.58e6, 460),
        "resnext50_32x4d": (26.0e6, 780),
        "resnext101_32x8d": (89.8e6, 1460),
        "resnest14d": (11.6e6, 530),
        "resnest50d": (28.5e6, 830),
        "resnest101e": (49.4e6, 1260),
    }
)
_ADM_MULTIPLIERS: Mapping[int, str] = MappingProxyType(
    {512: "0.5,1,1,2,2,4,4", 256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4"}
)


def network_size(prior: PriorSettings, side: int) -> NetworkSize:
    """Size of a prior's network on images of `side` pixels."""
    if prior.network in _ENCODERS:
        n_parameters, kept_per_pixel = _ENCODERS[prior.network]
        return NetworkSize(n_parameters, kept_per_pixel * side**2)
    return _unet_size(prior.network, prior.options, side)


def _unet_size(kind: str, options: Mapping[str, Any], side: int) -> NetworkSize:
    """Residual blocks, counted level by level; attention, norms, stem and heads are left out."""
    base = options.get("inner_channel") or options.get("num_channels") or 64
    n_blocks = options.get("res_blocks") or options.get("num_res_blocks") or 2
    multipliers = options.get("channel_multiplier") or options.get("channel_mults") or options.get("channel_mult")
    widths = [base * factor for factor in _numbers(multipliers or _ADM_MULTIPLIERS.get(side, "1,2,4,8"))]
    is_guided = kind != "sr3"
    level_inputs = 8 * base if is_guided else base  # scale and shift from 4 x base channels, or a shift from base
    kernels, kept, pixels, current = 0.0, 0.0, (side / options.get("patch_size", 1)) ** 2, widths[0]
    for width in widths:
        down = current * width + (2 * n_blocks - 1) * width**2
        up = (n_blocks + 1) * 3 * width**2  # each joins a feature map of the way down
        resampling = (4 if options.get("resblock_updown", kind == "palette") else 2) * width**2
        kernels += 9 * (down + up + resampling) + (2 * n_blocks + 1) * level_inputs * width
        kept += (15 if is_guided else 11) * (2 * n_blocks + 1) * width * pixels
        current, pixels = width, pixels / 4
    return NetworkSize(kernels + 2 * 18 * current**2, kept)


def _numbers(value: str | Iterable[float]) -> list[float]:
    return [float(part) for part in (value.split(",") if isinstance(value, str) else value)]
