"""Where bounds of corrupted images come from before calibration: one forward pass, or variants drawn by diffusion."""

import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np

from conffusion.bounds import sampled_bounds
from conffusion.core.device import Device
from conffusion.errors import CheckpointError, PackageError
from conffusion.inference.interval import EstimateKind
from conffusion.inference.package import Package, SamplingRecord
from conffusion.methods.models import load_predictor
from conffusion.methods.one_pass import RawBounds, forward
from conffusion.models.checkpoint import load_checkpoint
from conffusion.models.networks import Architecture, load_weights
from conffusion.sampling import ChainSampler, Solver, draw_variants
from conffusion.tasks import DegradedImages


class BoundSource(Protocol):
    """Bounds of images of the size that a network knows.

    Attributes:
        estimate_kind: What `RawBounds.point` is; "midpoint" = nothing of its own.
        forward_passes: Network calls per image.
    """

    estimate_kind: EstimateKind
    forward_passes: int

    def bounds(self, images: DegradedImages) -> RawBounds:
        """Bounds before calibration; a pure function of the images, their ids and the seed."""


class OnePassSource:
    """A fitted network.

    Args:
        path: Its file.
        estimate_kind: "point_head" where the network was fitted to a point estimate, else "midpoint".
        device: Device and precision.
    Attributes:
        predictor: The network, placed.
    """

    forward_passes = 1

    def __init__(self, path: Path, estimate_kind: EstimateKind, device: Device) -> None:
        self.predictor, _ = load_predictor(path)
        self._device, self.estimate_kind = device, estimate_kind
        device.place(self.predictor)

    def bounds(self, images: DegradedImages) -> RawBounds:
        """As `BoundSource.bounds`."""
        return forward(self.predictor, images, self._device)


class SampledSource:
    """Quantiles of variants (DM_SB).

    Args:
        path: The diffusion prior's file.
        sampling: How variants are drawn.
        device: Device and precision.
        batch_size: Variants per network call.
    Attributes:
        network: The diffusion network, placed.
        schedule: Its noise schedule.
    """

    estimate_kind: EstimateKind = "mean_of_variants"

    def __init__(self, path: Path, sampling: SamplingRecord, device: Device, batch_size: int) -> None:
        weights, record = load_checkpoint(path)
        architecture = Architecture(**record["architecture"])
        schedule = architecture.build_schedule()
        if schedule is None:
            raise CheckpointError(f"{path}: is no diffusion network, so no variants can be drawn from it")
        network = architecture.build_prior()
        load_weights(network, weights)
        self.network, self.schedule, self._device = device.place(network), schedule, device
        self._sampling, self._batch_size = sampling, batch_size
        self._solver = Solver(sampling.solver, sampling.n_steps, sampling.shared_start)
        self.forward_passes = self._solver.n_calls(schedule) * sampling.n_variants

    def bounds(self, images: DegradedImages) -> RawBounds:
        """As `BoundSource.bounds`; the point is the mean of the variants."""
        sampling, storage = self._sampling, self._sampling.storage
        sampler = ChainSampler(self.network, self.schedule, images, self._solver, storage, self._device)
        scale = np.float32(255 if storage == "uint8" else 1)
        parts = []
        for drawn in draw_variants(sampler, images, sampling.n_variants, self._batch_size):
            lower, upper = sampled_bounds(drawn.variants, sampling.quantile, 1 - sampling.quantile)
            parts.append((drawn.variants.mean(axis=0, dtype=np.float32) / scale, lower / scale, upper / scale))
        point, lower, upper = (np.stack(part).astype(np.float32) for part in zip(*parts, strict=True))
        return RawBounds(point, lower, upper)


def open_source(package: Package, device: Device, batch_size: int) -> BoundSource:
    """What a package predicts with.

    Raises:
        PackageError: If its weights are unusable.
    """
    sampling = package.record.sampling
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(package.weights)
        try:
            if sampling is None:
                kind: EstimateKind = "point_head" if package.method.has_point_head else "midpoint"
                return OnePassSource(path, kind, device)
            return SampledSource(path, sampling, device, batch_size)
        except (CheckpointError, KeyError, TypeError, ValueError) as error:
            raise PackageError(f"{package.record.name}: its weights cannot be used ({error})") from error
