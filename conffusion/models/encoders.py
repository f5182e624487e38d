"""Image encoders of the ResNeXt and ResNeSt families, built from one table of architectures.

Parameter names are the published ones (those of the timm model library), classifier included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conffusion.core.names import lookup
from conffusion.errors import ConfigError, ShapeError

MIN_ATTENTION_CHANNELS = 32


@dataclass(frozen=True)
class EncoderSpec:
    """One architecture as data.

    Attributes:
        depths: Blocks per layer.
        planes: Unit width per layer; a layer's output has planes * expansion channels.
        groups, group_width: Groups of the 3x3 convolution and their width where planes is 64; scales with planes.
        expansion: See `planes`.
        radix: Branches of split attention (ResNeSt); 0 for a plain grouped convolution (ResNeXt).
        stem_widths: Widths of the stem's convolutions: one is a single convolution of `stem_kernel`, three are 3x3.
        stem_kernel, stem_stride: Of the first convolution.
        max_pool: Halve the resolution between stem and layer1.
        average_down: Reduce resolution by averaging instead of by strided convolutions.
    """

    depths: tuple[int, int, int, int]
    planes: tuple[int, int, int, int] = (64, 128, 256, 512)
    groups: int = 32
    group_width: int = 4
    expansion: int = 4
    radix: int = 0
    stem_widths: tuple[int, ...] = (64,)
    stem_kernel: int = 7
    stem_stride: int = 2
    max_pool: bool = True
    average_down: bool = False

    @property
    def stride(self) -> int:
        """Input pixels per pixel of the coarsest feature map, along one side."""
        return self.stem_stride * (2 if self.max_pool else 1) * 8

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of stem, layer1 .. layer4."""
        return (self.stem_widths[-1], *(width * self.expansion for width in self.planes))

    def inner_width(self, planes: int) -> int:
        """Channels inside a block."""
        return int(planes * self.group_width / 64) * self.groups


def _resnest(depths: tuple[int, int, int, int], stem: int) -> EncoderSpec:
    """A published ResNeSt with radix 2, one group, deep stem and average pooling."""
    return EncoderSpec(
        depths, groups=1, group_width=64, radix=2, stem_widths=(stem, stem, 2 * stem), stem_kernel=3, average_down=True
    )


ENCODERS: Mapping[str, EncoderSpec] = {
    "resnext50_32x4d": EncoderSpec((3, 4, 6, 3)),
    "resnext101_32x8d": EncoderSpec((3, 4, 23, 3), group_width=8),
    "resnest14d": _resnest((1, 1, 1, 1), 32),
    "resnest50d": _resnest((3, 4, 6, 3), 32),
    "resnest101e": _resnest((3, 4, 23, 3), 64),
    "resnext_small": EncoderSpec(
        (2, 2, 2, 2),
        planes=(32, 64, 128, 192),
        groups=4,
        group_width=16,
        expansion=1,
        stem_widths=(16, 16, 32),
        stem_kernel=3,
        max_pool=False,
        average_down=True,
    ),
    "resnest_small": EncoderSpec(
        (2, 2, 2, 2),
        planes=(16, 32, 64, 96),
        groups=1,
        group_width=64,
        expansion=2,
        radix=2,
        stem_widths=(16, 16, 32),
        stem_kernel=3,
        max_pool=False,
        average_down=True,
    ),
}


class SplitAttention(nn.Module):
    """Grouped 3x3 convolution into `radix` branches, mixed by channel-wise attention over the branches.

    Source:
        Zhang et al. 2020 (ResNeSt), section 3.1, figure 2.
    """

    def __init__(self, n_channels: int, *, groups: int, radix: int, stride: int) -> None:
        super().__init__()
        n_attention = max(MIN_ATTENTION_CHANNELS, _nearest_multiple(n_channels * radix / 4, 8))
        n_branches = n_channels * radix
        self.groups, self.radix = groups, radix
        self.conv = nn.Conv2d(n_channels, n_branches, 3, stride, 1, groups=groups * radix, bias=False)
        self.bn0 = nn.BatchNorm2d(n_branches)
        self.fc1 = nn.Conv2d(n_channels, n_attention, 1, groups=groups)
        self.bn1 = nn.BatchNorm2d(n_attention)
        self.fc2 = nn.Conv2d(n_attention, n_branches, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), or the strided size."""
        branches = F.relu(self.bn0(self.conv(x))).chunk(self.radix, dim=1)
        pooled = torch.stack([branch.mean((2, 3), keepdim=True) for branch in branches]).sum(0)
        logits = self.fc2(F.relu(self.bn1(self.fc1(pooled))))  # (N, groups * radix * width, 1, 1)
        weights = logits.unflatten(1, (self.groups, self.radix, -1)).softmax(dim=2).transpose(1, 2).flatten(2, 3)
        first, *others = (branch * weight for branch, weight in zip(branches, weights.unbind(1), strict=True))
        return sum(others, start=first)


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 (or split attention), 1x1 convolution, with a skip connection.

    Source:
        Xie et al. 2017 (ResNeXt), figure 3c; Zhang et al. 2020 (ResNeSt), section 3.2 (pooling instead of strides).
    """

    def __init__(self, spec: EncoderSpec, n_in: int, planes: int, stride: int) -> None:
        super().__init__()
        inner, n_out = spec.inner_width(planes), planes * spec.expansion
        pooled = spec.average_down and stride > 1
        self.conv1 = nn.Conv2d(n_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2: nn.Module
        if spec.radix:
            self.conv2 = SplitAttention(inner, groups=spec.groups, radix=spec.radix, stride=1 if pooled else stride)
        else:
            self.conv2 = nn.Conv2d(inner, inner, 3, 1 if pooled else stride, 1, groups=spec.groups, bias=False)
            self.bn2 = nn.BatchNorm2d(inner)
        self.pool = nn.AvgPool2d(3, stride, padding=1) if pooled else nn.Identity()
        self.conv3 = nn.Conv2d(inner, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        nn.init.zeros_(self.bn3.weight)  # every block starts as its skip connection
        self.downsample = _shortcut(spec, n_in, n_out, stride) if stride > 1 or n_in != n_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        h = self.conv2(F.relu(self.bn1(self.conv1(x))))
        if isinstance(self.conv2, nn.Conv2d):  # split attention has its own norm and activation
            h = F.relu(self.bn2(h))
        h = self.bn3(self.conv3(self.pool(h)))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)))


class Encoder(nn.Module):
    """Five feature maps and a classifier.

    Attributes:
        spec: The architecture; `spec.stride` divides sizes without loss, `spec.feature_channels` are the widths.
        n_classes: Size of the classifier's output.
    """

    def __init__(self, spec: EncoderSpec, n_classes: int) -> None:
        super().__init__()
        self.spec, self.n_classes = spec, n_classes
        self.conv1 = _stem(spec)
        self.bn1 = nn.BatchNorm2d(spec.stem_widths[-1])
        n_in = spec.stem_widths[-1]
        for index, (depth, planes) in enumerate(zip(spec.depths, spec.planes, strict=True)):
            self.add_module(f"layer{index + 1}", _layer(spec, n_in, planes, depth, stride=1 if index == 0 else 2))
            n_in = planes * spec.expansion
        self.fc = nn.Linear(n_in, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> list[Tensor]:
        """Feature maps from fine to coarse.

        Args:
            x: (N, 3, H, W), in the range that the weights were trained for: [-1, 1] for the priors of this package.
        Returns:
            Five tensors: the stem after its activation and before any pooling, then layer1 .. layer4.
        Raises:
            ShapeError: If x is not (N, 3, H, W).
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise ShapeError(f"encoder input has shape {tuple(x.shape)}: expected (N, 3, H, W)")
        h = F.relu(self.bn1(self.conv1(x)))
        taps = [h]
        if self.spec.max_pool:
            h = F.max_pool2d(h, 3, stride=2, padding=1)
        for index in range(1, 5):
            h = cast(Tensor, getattr(self, f"layer{index}")(h))
            taps.append(h)
        return taps

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (N, n_classes) of images (N, 3, H, W)."""
        return cast(Tensor, self.fc(self.features(x)[-1].mean((2, 3))))


def build_encoder(name: str, n_classes: int = 1000) -> Encoder:
    """Encoder by name.

    Args:
        name: A key of `ENCODERS`; resnext_small and resnest_small are this package's own, for 32x32 images.
        n_classes: Size of the classifier's output.
    Returns:
        The network, randomly initialised (He et al. 2015).
    Raises:
        ConfigError: If the name is unknown or n_classes is not positive.
    """
    spec = lookup(ENCODERS, name, "encoder")
    if n_classes < 1:
        raise ConfigError(f"encoder {name}: n_classes = {n_classes}: must be positive")
    return Encoder(spec, n_classes)


def _stem(spec: EncoderSpec) -> nn.Module:
    """One strided convolution, or three 3x3 convolutions with norms between."""
    first = nn.Conv2d(3, spec.stem_widths[0], spec.stem_kernel, spec.stem_stride, spec.stem_kernel // 2, bias=False)
    if len(spec.stem_widths) == 1:
        return first
    layers: list[nn.Module] = [first]
    for n_in, n_out in zip(spec.stem_widths, spec.stem_widths[1:], strict=False):
        layers += [nn.BatchNorm2d(n_in), nn.ReLU(), nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)]
    return nn.Sequential(*layers)


def _layer(spec: EncoderSpec, n_in: int, planes: int, depth: int, *, stride: int) -> nn.Sequential:
    """Blocks of one resolution; the first one changes it."""
    blocks = [Bottleneck(spec, n_in, planes, stride)]
    blocks += [Bottleneck(spec, planes * spec.expansion, planes, 1) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


def _shortcut(spec: EncoderSpec, n_in: int, n_out: int, stride: int) -> nn.Sequential:
    """Projection on the skip connection."""
    if not spec.average_down:
        return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
    pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
    return nn.Sequential(pool, nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out))


def _nearest_multiple(value: float, divisor: int) -> int:
    """Multiple of the divisor closest to a value, at least one divisor and at least 90 % of the value."""
    multiple = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return multiple if multiple >= 0.9 * value else multiple + divisor
