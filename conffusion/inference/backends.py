"""What makes bounds of images of a network's size, before calibration: one forward pass, or variants by diffusion."""

import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np

from conffusion.bounds import sampled_bounds
from conffusion.core.device import BatchLimit, Device
from conffusion.errors import CheckpointError, PackageError
from conffusion.inference.interval import EstimateKind
from conffusion.inference.package import Package, SamplingRecord
from conffusion.methods.models import load_predictor
from conffusion.methods.one_pass import RawBounds, forward
from conffusion.models.checkpoint import load_checkpoint
from conffusion.models.networks import Architecture, load_weights
from conffusion.sampling import ChainSampler, Solver, draw_variants
from conffusion.tasks import DegradedImages


class Backend(Protocol):
    """Bounds of images of the size that a network knows.

    Attributes:
        estimate_kind: What `RawBounds.point` is; "midpoint" = nothing of its own.
        forward_passes: Network calls per image.
    """

    estimate_kind: EstimateKind
    forward_passes: int

    def bounds(self, images: DegradedImages) -> RawBounds:
        """Bounds before calibration; a pure function of the images, their ids and the seed."""


class OnePassBackend:
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
        """As `Backend.bounds`."""
        return forward(self.predictor, images, self._device)


class SamplingBackend:
    """Quantiles of variants (DM_SB).

    Args:
        path: The diffusion prior's file.
        sampling: How variants are drawn.
        device: Device and precision.
        limit: Variants per network call.
    Attributes:
        network: The diffusion network, placed.
        schedule: Its noise schedule.
    """

    estimate_kind: EstimateKind = "mean_of_variants"

    def __init__(self, path: Path, sampling: SamplingRecord, device: Device, limit: BatchLimit) -> None:
        weights, record = load_checkpoint(path)
        architecture = Architecture(**record["architecture"])
        schedule = architecture.build_schedule()
        if schedule is None:
            raise CheckpointError(f"{path}: is no diffusion network, so no variants can be drawn from it")
        network = architecture.build_prior()
        load_weights(network, weights)
        self.network, self.schedule, self._device = device.place(network), schedule, device
        self._sampling, self._limit = sampling, limit
        self._solver = Solver(sampling.solver, sampling.n_steps, sampling.shared_start)
        self.forward_passes = self._solver.n_calls(schedule) * sampling.n_variants

    def bounds(self, images: DegradedImages) -> RawBounds:
        """As `Backend.bounds`; the point is the mean of the variants."""
        dtype, quantile = self._sampling.dtype, self._sampling.quantile
        sampler = ChainSampler(self.network, self.schedule, images, self._solver, dtype, self._device)
        scale = np.float32(255 if dtype == "uint8" else 1)
        parts = []
        for drawn in draw_variants(sampler, images, self._sampling.n_variants, self._limit):
            lower, upper = sampled_bounds(drawn.variants, quantile, 1 - quantile)
            parts.append((drawn.variants.mean(axis=0, dtype=np.float32) / scale, lower / scale, upper / scale))
        return RawBounds(*(np.stack(part).astype(np.float32) for part in zip(*parts, strict=True)))


def open_backend(package: Package, device: Device, batch_size: int) -> Backend:
    """What a package predicts with.

    Args:
        package: The model.
        device: Device and precision.
        batch_size: Variants per network call of a sampled method.
    Raises:
        PackageError: If its weights are unusable.
    """
    sampling = package.record.sampling
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(package.weights)
        try:
            if sampling is None:
                return OnePassBackend(path, "point_head" if package.method.has_point_head else "midpoint", device)
            return SamplingBackend(path, sampling, device, BatchLimit(batch_size))
        except (CheckpointError, KeyError, TypeError, ValueError) as error:
            raise PackageError(f"{package.record.name}: its weights cannot be used ({error})") from error
