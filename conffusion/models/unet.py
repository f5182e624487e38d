"""The U-Nets of SR3, Palette and ADM: one network, three configurations."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from conffusion.errors import ConfigError, ShapeError
from conffusion.models.unet_blocks import (
    Resample,
    ResidualBlock,
    SelfAttention,
    Stage,
    call,
    embedding_network,
    level_embedding,
    norm_act_conv,
    register,
    zero_if,
)
from conffusion.models.unet_config import read_spec
from conffusion.models.unet_spec import UNetSpec

BOUND_HEADS = ("lower", "upper")


class UNet(nn.Module):
    """Denoising U-Net with one ordinary head and, if asked for, two sibling heads for the bounds.

    The parameters carry the names of the official implementation of the configured kind.

    Attributes:
        kind: "sr3", "palette" or "adm".
        config: The configuration as given.
        in_channels, out_channels: Of images, before patching.
        n_classes: Size of the class table, 0 without classes.
        has_bounds: Whether the heads `lower` and `upper` exist.
    Source:
        Ho et al. 2020 (architecture); Conffusion, section 3 (sibling heads for the bounds).
    """

    def __init__(self, kind: str, config: Mapping[str, Any], *, bounds: bool = False) -> None:
        super().__init__()
        spec = read_spec(kind, config)
        self.kind, self.config, self.spec, self.has_bounds = kind, dict(config), spec, bounds
        self.in_channels, self.out_channels, self.n_classes = spec.in_channels, spec.out_channels, spec.n_classes
        self.add_module(spec.variant.embedding, embedding_network(spec))
        if spec.n_classes:
            self.label_emb = nn.Embedding(spec.n_classes, spec.embedding_channels)
        downs, skip_channels = _build_downs(spec)
        self.add_module(spec.variant.downs, downs)
        self.add_module(spec.variant.middle, _build_middle(spec))
        self.add_module(spec.variant.ups, _build_ups(spec, skip_channels))
        for name in (spec.variant.point_head, *(BOUND_HEADS if bounds else ())):
            head = norm_act_conv(spec, spec.widths[0], spec.out_channels * spec.patch_size**2)
            zero_if(spec.variant.zero_init, head[-1])
            register(self, self._head_path(name), head)

    def forward(self, x: Tensor, level: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Output of the ordinary head.

        Args:
            x: (N, in_channels, H, W), in [-1, 1] or noisy; H and W multiples of patch_size * 2^(levels - 1).
            level: (N, 1) or (N,): noise level sqrt(abar) for "sr3", gamma = abar for "palette", time step for "adm".
            class_labels: (N,) int64, in [0, n_classes); exactly for class-conditional networks.
        Returns:
            (N, out_channels, H, W): the noise estimate (and, with `learn_sigma`, three variance channels).
        Raises:
            ShapeError: If shapes do not fit or class labels are missing or unexpected.
        """
        return self._run_heads((self.spec.variant.point_head,), x, level, class_labels)[0]

    def bound_heads(self, x: Tensor, level: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Raw outputs (lower, upper) of the two bound heads; arguments and shapes as in `forward`.

        Raises:
            ConfigError: If the network was built without bound heads.
        """
        self._require_bounds()
        lower, upper = self._run_heads(BOUND_HEADS, x, level, class_labels)
        return lower, upper

    def heads(self, x: Tensor, level: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Raw outputs (point, lower, upper) from one pass; arguments and shapes as in `forward`.

        Raises:
            ConfigError: If the network was built without bound heads.
        """
        self._require_bounds()
        point, lower, upper = self._run_heads((self.spec.variant.point_head, *BOUND_HEADS), x, level, class_labels)
        return point, lower, upper

    def copy_head_to_bounds(self) -> None:
        """Copy the ordinary head's gain, bias and kernel into both bound heads, as the official code does."""
        self._require_bounds()
        state = self._head(self.spec.variant.point_head).state_dict()
        for name in BOUND_HEADS:
            self._head(name).load_state_dict(state)

    def _run_heads(self, names: tuple[str, ...], x: Tensor, level: Tensor, class_labels: Tensor | None) -> list[Tensor]:
        """Outputs of the named heads on one shared feature map, in the precision of the weights under autocast too."""
        features = self._features(x, level, class_labels)
        heads = [self._head(name) for name in names]
        with torch.autocast(x.device.type, enabled=False):
            features = features.to(_dtype(self))
            return [F.pixel_shuffle(head(features), self.spec.patch_size) for head in heads]

    def _features(self, x: Tensor, level: Tensor, class_labels: Tensor | None) -> Tensor:
        """Last feature map (N, widths[0], H / patch, W / patch): down, middle, up."""
        self._check_input(x, level, class_labels)
        embedding = self._embed(level, class_labels)
        h = F.pixel_unshuffle(x, self.spec.patch_size)
        skips: list[Tensor] = []
        with self._torso_precision(x):
            for part in self._parts(self.spec.variant.downs):
                h = self._call(part, h, embedding)
                skips.append(h)
            for part in self._parts(self.spec.variant.middle):
                h = self._call(part, h, embedding)
            for part in self._parts(self.spec.variant.ups):
                if isinstance(part, Stage):  # a bare resampling layer takes no skip connection
                    h = torch.cat([h, skips.pop()], dim=1)
                h = self._call(part, h, embedding)
        return h

    def _embed(self, level: Tensor, class_labels: Tensor | None) -> Tensor:
        """(N, E) float32 embedding of level and class; never in half precision, which would round levels near 1."""
        with torch.autocast(level.device.type, enabled=False):
            sinusoids = level_embedding(
                level.reshape(-1), self.spec.base_channels, sine_first=self.spec.variant.sine_first
            )
            network = cast(nn.Sequential, getattr(self, self.spec.variant.embedding))
            embedding = cast(Tensor, network(sinusoids.to(_dtype(self))))
            return embedding if class_labels is None else embedding + self.label_emb(class_labels)

    def _call(self, part: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        if self.spec.checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(call, part, h, embedding, use_reentrant=False))
        return call(part, h, embedding)

    def _torso_precision(self, x: Tensor) -> AbstractContextManager[Any]:
        """Float16 for the torso where the configuration asks for it (`use_fp16`); else what the caller has set."""
        return torch.autocast(x.device.type, torch.float16) if self.spec.half_torso else nullcontext()

    def _parts(self, name: str) -> nn.ModuleList:
        return cast(nn.ModuleList, getattr(self, name))

    def _head(self, name: str) -> nn.Sequential:
        return cast(nn.Sequential, self.get_submodule(self._head_path(name)))

    def _head_path(self, name: str) -> str:
        inner = self.spec.variant.head_inner
        return f"{name}.{inner}" if inner else name

    def _require_bounds(self) -> None:
        if not self.has_bounds:
            raise ConfigError("this U-Net has no bound heads: build it with build_unet(..., bounds=True)")

    def _check_input(self, x: Tensor, level: Tensor, class_labels: Tensor | None) -> None:
        multiple = self.spec.size_multiple
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.shape[2] % multiple or x.shape[3] % multiple:
            expected = f"(N, {self.in_channels}, H, W) with H and W multiples of {multiple}"
            raise ShapeError(f"{self.spec.variant.title} input has shape {tuple(x.shape)}: expected {expected}")
        if level.numel() != x.shape[0]:
            raise ShapeError(f"level has shape {tuple(level.shape)}: expected one value per image, ({x.shape[0]}, 1)")
        if bool(self.n_classes) != (class_labels is not None):
            wanted = f"class_labels (N,) in [0, {self.n_classes})" if self.n_classes else "no class_labels"
            raise ShapeError(f"{self.spec.variant.title} network with {self.n_classes} classes: pass {wanted}")


def build_unet(kind: str, config: Mapping[str, Any], *, bounds: bool = False) -> UNet:
    """U-Net of SR3, Palette or ADM from its official configuration.

    Args:
        kind: "sr3", "palette" or "adm".
        config: Official keys (see `read_spec`), plus ours: `patch_size`, `norm_groups`, `num_classes`.
        bounds: Add the heads `lower` and `upper`.
    Returns:
        The network with the variant's own initialisation; float32, on the default device.
    Raises:
        ConfigError: If the configuration does not describe a network; names the key and the nearest known one.
    """
    return UNet(kind, config, bounds=bounds)


def _build_downs(spec: UNetSpec) -> tuple[nn.ModuleList, list[int]]:
    """Way down, and the channels of every feature map that the way up will receive."""
    stem = nn.Conv2d(spec.in_channels * spec.patch_size**2, spec.stem_channels, 3, padding=1)
    parts: list[nn.Module] = [stem if spec.variant.residual else Stage(spec, stem)]
    skip_channels = [spec.stem_channels]
    for index, width in enumerate(spec.widths):
        for _ in range(spec.n_blocks):
            parts.append(Stage(spec, *_block(spec, skip_channels[-1], width, 2**index)))
            skip_channels.append(width)
        if index + 1 < len(spec.widths):
            parts.append(_bare_or_staged(spec, _resampler(spec, width, up=False)))
            skip_channels.append(width)
    return nn.ModuleList(parts), skip_channels


def _build_middle(spec: UNetSpec) -> nn.ModuleList:
    """Residual block, attention, residual block at the coarsest resolution."""
    width = spec.widths[-1]
    first, second = ResidualBlock(spec, width, width), ResidualBlock(spec, width, width)
    attention = SelfAttention(spec, width, _n_heads(spec, width, spec.n_heads))
    if spec.variant.residual:
        return nn.ModuleList([Stage(spec, first, attention), Stage(spec, second)])
    return nn.ModuleList([first, attention, second])


def _build_ups(spec: UNetSpec, skip_channels: list[int]) -> nn.ModuleList:
    """Way up; every stage starts with the concatenation of one earlier feature map."""
    parts: list[nn.Module] = []
    remaining, current = list(skip_channels), spec.widths[-1]
    for index, width in reversed(list(enumerate(spec.widths))):
        for block in range(spec.n_blocks + 1):
            members = _block(spec, current + remaining.pop(), width, 2**index, up=True)
            current, last = width, block == spec.n_blocks and index > 0
            resampler = _resampler(spec, width, up=True) if last else None
            if resampler is not None and not spec.variant.residual:
                members.append(resampler)
            parts.append(Stage(spec, *members))
            if resampler is not None and spec.variant.residual:
                parts.append(resampler)
    return nn.ModuleList(parts)


def _block(spec: UNetSpec, n_in: int, n_out: int, rate: int, *, up: bool = False) -> list[nn.Module]:
    """Residual block and, at the configured rates, attention."""
    members: list[nn.Module] = [ResidualBlock(spec, n_in, n_out)]
    if rate in spec.attention_rates:
        members.append(SelfAttention(spec, n_out, _n_heads(spec, n_out, spec.n_heads_up if up else spec.n_heads)))
    return members


def _resampler(spec: UNetSpec, width: int, *, up: bool) -> nn.Module:
    """Change of resolution: inside a residual block, or a layer of its own."""
    if spec.residual_resampling:
        return ResidualBlock(spec, width, width, resample=Resample(width, up=up, conv=False))
    name = "conv" if up or spec.variant.residual else "op"
    return Resample(width, up=up, conv_name=name, conv=spec.conv_resampling)


def _bare_or_staged(spec: UNetSpec, layer: nn.Module) -> nn.Module:
    """SR3 keeps single layers bare, the guided family wraps them in a stage."""
    return layer if spec.variant.residual else Stage(spec, layer)


def _dtype(module: nn.Module) -> torch.dtype:
    """Type of a module's weights."""
    return next(module.parameters()).dtype


def _n_heads(spec: UNetSpec, width: int, default: int) -> int:
    """Number of attention heads for a width.

    Raises:
        ConfigError: If the heads do not divide the width.
    """
    n_heads = default if spec.head_channels is None else width // spec.head_channels
    if n_heads < 1 or width % n_heads or (spec.head_channels is not None and width % spec.head_channels):
        raise ConfigError(
            f"attention over {width} channels: {n_heads} heads do not divide it (head_channels {spec.head_channels})"
        )
    return n_heads
