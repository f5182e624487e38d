"""A U-Net whose way down is an image encoder: the regression networks of the ResNeXt and ResNeSt baselines."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conffusion.errors import ConfigError, ShapeError
from conffusion.models.encoders import Encoder
from conffusion.models.unet_blocks import SingleGroupNorm

MIN_WIDTH, MAX_WIDTH = 32, 128
NORM_GROUPS = 8
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]


class EncoderUNet(nn.Module):
    """Decoder with skip connections on the five feature maps of an encoder, and one 3x3 head per output.

    The decoder ends at the stem's resolution, where the image itself joins with its pixels folded into channels; the
    heads unfold their output to full size. They start at zero, so the network's first output is 0 everywhere.

    Attributes:
        encoder: The encoder given; its classifier is not used.
        in_channels, out_channels, n_heads: 3, and as given.
        standardise: Whether the encoder sees pixels minus ImageNet's mean, divided by its standard deviation, as
            ImageNet classifiers do, instead of [-1, 1].
    Source:
        Ronneberger et al. 2015 (U-Net); three heads as in Angelopoulos et al. 2022 (im2im-uq), section 3.
    """

    def __init__(self, encoder: Encoder, out_channels: int = 3, n_heads: int = 3, *, standardise: bool = False) -> None:
        super().__init__()
        if out_channels < 1 or n_heads < 1:
            raise ConfigError(f"EncoderUNet: out_channels {out_channels} and n_heads {n_heads} must be positive")
        self.encoder = encoder
        self.in_channels, self.out_channels, self.n_heads = 3, out_channels, n_heads
        self.standardise = standardise
        self.fold = encoder.spec.stem_stride
        *finer, current = encoder.spec.feature_channels
        blocks = []
        for skip in reversed(finer):
            width = _decoder_width(skip)
            blocks.append(_Merge(current + skip, width))
            current = width
        self.decoder = nn.ModuleList(blocks)
        self.join_image = _conv_norm_act(current + self.in_channels * self.fold**2, current, 3)
        self.head_convs = nn.ModuleList(self._head(current) for _ in range(n_heads))

    def forward(self, x: Tensor) -> Tensor:
        """First head: (N, 3, H, W) in [-1, 1] -> (N, out_channels, H, W)."""
        return self._run_heads(x, 1)[0]

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """All heads from one pass.

        Args:
            x: (N, 3, H, W), in [-1, 1]; any H and W (padded inside to a multiple of the encoder's stride).
        Returns:
            n_heads tensors (N, out_channels, H, W), float32, unbounded; with three heads (point, lower, upper).
        Raises:
            ShapeError: If x is not (N, 3, H, W).
        """
        return self._run_heads(x, self.n_heads)

    def _run_heads(self, x: Tensor, n_heads: int) -> tuple[Tensor, ...]:
        """Outputs of the first heads, in the precision of the weights under autocast too."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ShapeError(f"EncoderUNet input has shape {tuple(x.shape)}: expected (N, 3, H, W)")
        height, width = x.shape[2:]
        features = self._decode(_pad_to_multiple(x, self.encoder.spec.stride))
        convs = [cast(nn.Conv2d, conv) for conv in self.head_convs[:n_heads]]
        with torch.autocast(x.device.type, enabled=False):
            features = features.to(convs[0].weight.dtype)
            folded = [F.pixel_shuffle(conv(features), self.fold) for conv in convs]
        return tuple(output[..., :height, :width] for output in folded)

    def _decode(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H / fold, W / fold)."""
        *finer, h = self.encoder.features(_standardise(x) if self.standardise else x)
        for block, skip in zip(self.decoder, reversed(finer), strict=True):
            h = block(h, skip)
        return cast(Tensor, self.join_image(torch.cat([h, F.pixel_unshuffle(x, self.fold).to(h.dtype)], dim=1)))

    def _head(self, n_in: int) -> nn.Conv2d:
        conv = nn.Conv2d(n_in, self.out_channels * self.fold**2, 3, padding=1)
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(cast(Tensor, conv.bias))
        return conv


class _Merge(nn.Module):
    """Enlarge the coarser map to the finer one's size, concatenate, reduce with 1x1, convolve with 3x3."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.reduce = _conv_norm_act(n_in, n_out, 1)
        self.convolve = _conv_norm_act(n_out, n_out, 3)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        if coarse.shape[2:] != skip.shape[2:]:
            coarse = F.interpolate(coarse, size=skip.shape[2:], mode="nearest")
        return cast(Tensor, self.convolve(self.reduce(torch.cat([coarse, skip], dim=1))))


def _conv_norm_act(n_in: int, n_out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False), SingleGroupNorm(NORM_GROUPS, n_out), nn.SiLU()
    )


def _standardise(x: Tensor) -> Tensor:
    """(N, 3, H, W) in [-1, 1] -> zero mean and unit variance over ImageNet."""
    mean, deviation = (x.new_tensor(values).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return ((x + 1) / 2 - mean) / deviation


def _decoder_width(skip_channels: int) -> int:
    """Half the skip connection's channels, within limits, a multiple of the norm's groups."""
    width = min(MAX_WIDTH, max(MIN_WIDTH, skip_channels // 2))
    return width // NORM_GROUPS * NORM_GROUPS


def _pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples."""
    bottom, right = -x.shape[2] % multiple, -x.shape[3] % multiple
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
