"""The exported graph as a module: from corrupted images to calibrated bounds, with nothing random inside."""

from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from conffusion.contrib.onnx.families import ScaledFamily
from conffusion.core.arrays import to_01, to_pm1
from conffusion.core.device import select_device
from conffusion.errors import ExportError
from conffusion.inference.backends import OnePassBackend, open_backend
from conffusion.inference.package import Package
from conffusion.methods.predictor import BoundPredictor
from conffusion.models.encoder_unet import EncoderUNet
from conffusion.models.unet import UNet
from conffusion.tasks.inpainting import MID_GREY

COLOURS = 3


class ExportedBounds(NamedTuple):
    """What the graph gives: images (N, 3, H, W) float32, all in [0, 1] but the last two.

    Attributes:
        lower: Calibrated lower bound. At known pixels the pixel itself, as in `upper` and `estimate`.
        upper: Calibrated upper bound.
        estimate: The point head where the method has one, else the midpoint of the calibrated interval.
        lower_unclipped: `lower` before it is clipped to [0, 1]. Tiles of a larger image are blended in this form and
            clipped afterwards, as `conffusion.Predictor` does.
        upper_unclipped: Likewise.
    """

    lower: Tensor
    upper: Tensor
    estimate: Tensor
    lower_unclipped: Tensor
    upper_unclipped: Tensor


class ExportedPredictor(nn.Module):
    """A one-pass predictor with its calibrated set family inside; in float32, in evaluation mode.

    Args:
        package: The model.
    Raises:
        ExportError: If the method samples, or its set family cannot be exported.
        PackageError: If its weights are unusable.
    """

    def __init__(self, package: Package) -> None:
        super().__init__()
        self.predictor = _float32_predictor(package)
        self.family = ScaledFamily(package.calibration.family, package.calibration.lambda_hat, COLOURS)
        self.has_mask, self.has_point_head = package.task.has_mask, package.method.has_point_head
        self._sorts = package.record.sorts_bounds
        self.eval()

    @property
    def network(self) -> UNet | EncoderUNet:
        """The network of the predictor."""
        return cast("UNet | EncoderUNet", self.predictor.network)

    @property
    def n_classes(self) -> int:
        """Classes of a class-conditional network, else 0."""
        return int(getattr(self.network, "n_classes", 0))

    @property
    def size_multiple(self) -> int:
        """Number that must divide the height and the width of the input."""
        network = self.network
        return network.spec.size_multiple if isinstance(network, UNet) else network.encoder.spec.stride

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that the graph has, in order."""
        needed = {
            "condition": True,
            "mask": self.has_mask,
            "noise": self.predictor.takes_noise,
            "labels": self.n_classes > 0,
        }
        return tuple(name for name, wanted in needed.items() if wanted)

    def forward(
        self, condition: Tensor, mask: Tensor | None = None, noise: Tensor | None = None, labels: Tensor | None = None
    ) -> ExportedBounds:
        """Calibrated bounds of a batch.

        Args:
            condition: (N, 3, H, W) float32 in [0, 1]: the corrupted image as the network sees it; for super-resolution
                already enlarged. H and W are multiples of `size_multiple`. What stands in holes has no effect.
            mask: (N, 1, H, W) float32, 1 at missing pixels and 0 at known ones; where the task has holes.
            noise: (N, 3, H, W) float32, standard normal; where the network fills holes or noises its input.
            labels: (N,) int64 in [0, n_classes); where the network is class-conditional.
        """
        point, low, high = self.raw(_whole_blocks(condition, self.size_multiple), mask, noise, labels)
        if self._sorts:
            low, high = low.minimum(high), low.maximum(high)
        low, high = self.family(low, high)
        if mask is not None:
            low, high = (torch.where(mask > 0.5, bound, condition) for bound in (low, high))
            point = torch.where(mask > 0.5, point, condition)
        lower, upper = low.clamp(0, 1), high.clamp(0, 1)
        return ExportedBounds(lower, upper, point if self.has_point_head else (lower + upper) / 2, low, high)

    def raw(
        self, condition: Tensor, mask: Tensor | None, noise: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(point, lower, upper) before sorting and calibration, (N, 3, H, W) in [0, 1]; arguments as in `forward`."""
        if mask is None:
            missing = torch.ones_like(condition)
        else:
            missing = (mask > 0.5).to(condition.dtype).expand_as(condition)
            condition = torch.where(mask > 0.5, MID_GREY, condition)
        unused = torch.zeros_like(condition) if noise is None else noise
        bounds = self.predictor(to_pm1(condition), missing, unused, labels)
        point, lower, upper = (to_01(bound.float()).clamp(0, 1) for bound in bounds)
        return point, lower, upper


def _whole_blocks(images: Tensor, side: int) -> Tensor:
    """The images as they are; a runtime refuses those whose height or width is no multiple of `side`."""
    n_images, n_channels, height, width = images.shape
    blocks = images.reshape(n_images, n_channels, height // side, side, width // side, side)
    return blocks.reshape(n_images, n_channels, height, width)


def _float32_predictor(package: Package) -> BoundPredictor:
    """The network on the CPU, in float32 throughout and in torch's default layout."""
    backend = open_backend(package, select_device("cpu", "float32", threads=None), batch_size=1)
    if not isinstance(backend, OnePassBackend):
        raise ExportError(
            f"{package.record.name}: {package.method.label} draws variants with many network calls, and only one-pass "
            "methods can be exported: export n_conffusion or another method with a network of its own"
        )
    predictor = backend.predictor.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if isinstance(predictor.network, UNet):
        predictor.network.spec = replace(predictor.network.spec, half_torso=False, checkpointing=False)
    return predictor
