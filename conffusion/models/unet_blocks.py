"""Building blocks of the U-Nets: level embedding, residual block, self-attention, resampling, output head.

One implementation serves SR3, Palette and ADM; names and habits come from the `UNetSpec`. Shapes: N images, C channels,
H x W pixels, E embedding channels.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conffusion.models.unet_spec import UNetSpec

MAX_PERIOD = 10_000.0


def level_embedding(level: Tensor, n_channels: int, *, sine_first: bool) -> Tensor:
    """Sinusoidal embedding of a noise level, a signal level or a time step.

    Args:
        level: (N,), any real numbers, used as they are.
        n_channels: Size of the embedding; an odd last channel is zero.
        sine_first: Order of the two halves.
    Returns:
        (N, n_channels) float32: sine and cosine of level * 10000^(-k / half), k = 0 .. half - 1.
    Source:
        Vaswani et al. 2017, section 3.5, with the frequency spacing of Ho et al. 2020.
    """
    half = n_channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=level.device) / half
    angles = level.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * steps)
    waves = (angles.sin(), angles.cos()) if sine_first else (angles.cos(), angles.sin())
    return F.pad(torch.cat(waves, dim=1), (0, n_channels % 2))


def embedding_network(spec: UNetSpec) -> nn.Sequential:
    """Linear, SiLU, linear on top of the sinusoidal embedding: (N, base) -> (N, E)."""
    hidden = 4 * spec.base_channels
    slots = [nn.Identity() for _ in range(spec.variant.leading_slots)]
    layers = [nn.Linear(spec.base_channels, hidden), nn.SiLU(), nn.Linear(hidden, spec.embedding_channels)]
    return nn.Sequential(*slots, *layers)


def register(parent: nn.Module, dotted_name: str, child: nn.Module) -> None:
    """Add a child under a dotted name, with plain containers on the way."""
    *containers, last = dotted_name.split(".")
    for name in containers:
        if name not in parent._modules:
            parent.add_module(name, nn.Module())
        parent = cast(nn.Module, parent._modules[name])
    parent.add_module(last, child)


class SingleGroupNorm(nn.GroupNorm):
    """Group norm in float32 for any input precision, as in official half-precision code; also faster on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape and dtype."""
        return super().forward(x.float()).to(x.dtype)


def norm_act_conv(spec: UNetSpec, n_in: int, n_out: int, *, dropout: float | None = None) -> nn.Sequential:
    """Group norm, SiLU, dropout (or its empty place), 3x3 convolution."""
    slot: list[nn.Module] = []
    if dropout is not None:
        slot = [nn.Dropout(dropout)]
    elif spec.variant.dropout_slot_everywhere:
        slot = [nn.Identity()]
    conv = nn.Conv2d(n_in, n_out, 3, padding=1)
    return nn.Sequential(SingleGroupNorm(spec.norm_groups, n_in), nn.SiLU(), *slot, conv)


def zero_if(condition: bool, layer: nn.Module) -> None:
    """Set all parameters of a layer to zero where the variant asks for it."""
    if condition:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


class Resample(nn.Module):
    """Halves or doubles the resolution, with an optional 3x3 convolution.

    Down: strided convolution, or 2x2 averages; up: nearest neighbour, then the convolution.
    """

    def __init__(self, n_channels: int, *, up: bool, conv_name: str = "", conv: bool = True) -> None:
        super().__init__()
        self.up = up
        self.conv_name = conv_name if conv else ""
        if self.conv_name:
            self.add_module(conv_name, nn.Conv2d(n_channels, n_channels, 3, stride=1 if up else 2, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 2H, 2W) or (N, C, H/2, W/2)."""
        if self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        elif not self.conv_name:
            return F.avg_pool2d(x, 2)
        return cast(Tensor, getattr(self, self.conv_name)(x)) if self.conv_name else x


class ResidualBlock(nn.Module):
    """Two normalised convolutions with a skip connection, conditioned on the level between them.

    Source:
        Ho et al. 2020, appendix B; scale-shift norm and resampling inside: Dhariwal and Nichol 2021, section 3.
    """

    def __init__(self, spec: UNetSpec, n_in: int, n_out: int, *, resample: Resample | None = None) -> None:
        super().__init__()
        self.names, self.scale_shift = spec.variant.block, spec.scale_shift
        self.resample = resample if resample is not None else nn.Identity()
        n_level = 2 * n_out if spec.scale_shift else n_out
        activation = [nn.SiLU()] if spec.variant.activate_level else []
        second = norm_act_conv(spec, n_out, n_out, dropout=spec.dropout)
        zero_if(spec.variant.zero_init, second[-1])
        layers = {
            self.names.first: norm_act_conv(spec, n_in, n_out),
            self.names.level: nn.Sequential(*activation, nn.Linear(spec.embedding_channels, n_level)),
            self.names.second: second,
            self.names.skip: nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1),
        }
        for name in self.names.official_order():
            register(self, name, layers[name])

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (N, C_in, H, W), embedding (N, E) -> (N, C_out, H, W), or the resampled size."""
        first, second = self._layers(self.names.first), self._layers(self.names.second)
        h = first[-1](self.resample(first[1](first[0](x))))
        level = self._layers(self.names.level)(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = level.to(h.dtype).chunk(2, dim=1)
            h = torch.addcmul(shift, second[0](h).to(h.dtype), 1 + scale)
        else:
            h = second[0](h + level.to(h.dtype))
        skip = self.get_submodule(self.names.skip)(self.resample(x))
        return cast(Tensor, skip + second[1:](h))

    def _layers(self, dotted_name: str) -> nn.Sequential:
        return cast(nn.Sequential, self.get_submodule(dotted_name))


class SelfAttention(nn.Module):
    """Multi-head self-attention over pixels with a residual connection; logits scaled by 1 / sqrt(channels per head).

    Source:
        Vaswani et al. 2017, equation 1; in U-Nets: Ho et al. 2020, appendix B.
    """

    def __init__(self, spec: UNetSpec, n_channels: int, n_heads: int) -> None:
        super().__init__()
        variant = spec.variant
        conv = nn.Conv1d if variant.attention_conv_dims == 1 else nn.Conv2d
        self.n_heads, self.heads_before_qkv = n_heads, spec.heads_before_qkv
        self.out_name = variant.attention_out
        self.norm = SingleGroupNorm(spec.norm_groups, n_channels)
        self.qkv = conv(n_channels, 3 * n_channels, 1, bias=variant.attention_bias)
        self.add_module(self.out_name, conv(n_channels, n_channels, 1))
        zero_if(variant.zero_init, getattr(self, self.out_name))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        tokens = _per_pixel(self.qkv, self.norm(x).flatten(2).transpose(1, 2))  # (N, HW, 3C)
        order = (self.n_heads, 3, -1) if self.heads_before_qkv else (3, self.n_heads, -1)
        split = tokens.unflatten(2, order)  # (N, HW, heads, 3, D) or (N, HW, 3, heads, D)
        query, key, value = (part.transpose(1, 2) for part in split.unbind(3 if self.heads_before_qkv else 2))
        mixed = _attend(query, key, value)  # (N, heads, HW, D)
        out = _per_pixel(getattr(self, self.out_name), mixed.transpose(1, 2).flatten(2))
        return x + cast(Tensor, out.transpose(1, 2).unflatten(2, x.shape[2:]))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention, (N, heads, pixels, D) each; in float32 on CPUs, where that is much faster."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(query.dtype)


def _per_pixel(conv: nn.Conv1d | nn.Conv2d, tokens: Tensor) -> Tensor:
    """A 1x1 convolution applied to (N, pixels, C)."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)


class Stage(nn.Module):
    """Members applied one after the other; residual blocks also receive the embedding."""

    def __init__(self, spec: UNetSpec, *members: nn.Module) -> None:
        super().__init__()
        for index, member in enumerate(members):
            attends = isinstance(member, SelfAttention)
            name = spec.variant.attention if attends else spec.variant.residual
            self.add_module(name or str(index), member)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (N, C, H, W), embedding (N, E) -> output of the last member."""
        for member in self.children():
            x = call(member, x, embedding)
        return x


def call(module: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    """Call a module with the embedding if it takes one."""
    takes_embedding = isinstance(module, (Stage, ResidualBlock))
    return cast(Tensor, module(x, embedding) if takes_embedding else module(x))
