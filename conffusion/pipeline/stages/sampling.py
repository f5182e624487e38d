"""Variants of every image by diffusion, one shard of images at a time."""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from conffusion.core.device import Device
from conffusion.errors import DataError
from conffusion.models.networks import load_prior, load_weights
from conffusion.models.schedules import NoiseSchedule
from conffusion.pipeline.settings import SamplingStage
from conffusion.sampling import AdaptiveStopping, ChainSampler, Drawn, Solver, draw_variants
from conffusion.sampling.batch_size import fastest_batch_size
from conffusion.store import ArraySpec, new_store, open_store
from conffusion.tasks import DegradedImages
from conffusion.training.priors import architecture_of

LOGGER = logging.getLogger(__name__)
_TRIAL_STEPS = 2  # network calls per variant when batch sizes are compared


class VariantSource:
    """A task's diffusion prior, ready to draw variants.

    Args:
        job: What is drawn.
        device: Device and precision; compiles if the settings say so.
        checkpoint: Weights of the prior.
    Raises:
        CheckpointError: If the prior is unreadable or of another architecture.
    """

    def __init__(self, job: SamplingStage, device: Device, checkpoint: str | Path) -> None:
        architecture, sampling = architecture_of(job.prior), job.sampling
        network = architecture.build_prior()
        load_weights(network, load_prior(checkpoint, architecture))
        schedule = architecture.build_schedule()
        if schedule is None or not job.prior.task:
            raise ValueError(f"{checkpoint}: only a diffusion prior conditioned on a task can be sampled")
        self._schedule: NoiseSchedule = schedule
        self._device = replace(device, compiles=sampling.compile)
        self._network: nn.Module = self._device.place(network)
        self._sampling, self._adaptive_stopping = sampling, _adaptive_stopping(job)
        self._solver = Solver(sampling.solver, sampling.n_steps, sampling.shared_start)
        self.n_calls = self._solver.n_calls(schedule)

    def batch_size(self, images: DegradedImages) -> int:
        """Variants per network call: the configured number, or the fastest on this device."""
        if self._sampling.batch_size is not None:
            return self._sampling.batch_size
        few_steps = replace(self._solver, name="dpmpp_2m_sde", n_steps=_TRIAL_STEPS)
        trial = self._sampler(images, few_steps)

        def draw(n_chains: int) -> None:
            trial.launch([(0, variant) for variant in range(n_chains)])()

        return fastest_batch_size(self._network, images.shape, self._device, draw)

    def draw(self, images: DegradedImages, batch_size: int) -> Iterator[Drawn]:
        """Variants of every image, in the order of the images."""
        sampler = self._sampler(images, self._solver)
        return draw_variants(sampler, images, self._sampling.n_variants, batch_size, self._adaptive_stopping)

    def _sampler(self, images: DegradedImages, solver: Solver) -> ChainSampler:
        return ChainSampler(self._network, self._schedule, images, solver, self._sampling.dtype, self._device)


def sample_variants(
    job: SamplingStage,
    device: Device,
    *,
    checkpoint: str | Path,
    images: str | Path,
    shard: tuple[int, int],
    output: str | Path,
) -> None:
    """Draw and store the variants of one shard of images, while more are drawn.

    The store has the arrays variants (images, variants, C, H, W), where rows that were not drawn are 0, and n_variants
    (images,), how many were.

    Args:
        job: What is drawn.
        device: Device and precision.
        checkpoint: Weights of the prior.
        images: Image store of the split.
        shard: (k, K): the k-th of K nearly equal parts of the split's rows, counted from 0.
        output: Store to write.
    Raises:
        CheckpointError: If the prior is unreadable or of another architecture.
        StoreError: If the images are incomplete, or the disk refuses.
    """
    sampling, schedule = job.sampling, job.prior.schedule
    degraded = DegradedImages.of_store(open_store(images), job.seed)
    degraded = degraded.part(shard_rows(min(len(degraded), job.n_images or len(degraded)), *shard))
    source = VariantSource(job, device, checkpoint)
    batch_size = source.batch_size(degraded)
    n_images, n_variants = len(degraded), sampling.n_variants
    layout = {
        "variants": ArraySpec((n_variants, *degraded.shape), np.dtype(sampling.dtype)),
        "n_variants": ArraySpec((), np.dtype(np.int32)),
    }
    attributes = {
        "task": degraded.task.name,
        "seed": job.seed,
        "sampling": {**sampling.model_dump(), "batch_size": batch_size},
        "schedule": schedule.model_dump() if schedule else {},
    }
    start, n_drawn = time.perf_counter(), 0
    with new_store(output, layout, degraded.image_ids, attributes, url=sampling.variants_url) as writer:
        for drawn in source.draw(degraded, batch_size):
            n_drawn += len(drawn.variants)
            padded = _padded(drawn.variants, n_variants)
            writer.append({"variants": padded[None], "n_variants": np.array([len(drawn.variants)], np.int32)})
        writer.attributes["forward_passes_per_image"] = source.n_calls * n_drawn / n_images
        writer.attributes["seconds_per_image"] = (time.perf_counter() - start) / n_images


def _adaptive_stopping(settings: SamplingStage) -> AdaptiveStopping | None:
    rule = settings.sampling.adaptive_stopping
    if rule.precision is None or settings.quantile is None:
        return None
    return AdaptiveStopping(rule.precision, settings.quantile, rule.round)


def _padded(variants: npt.NDArray[Any], n_variants: int) -> npt.NDArray[Any]:
    missing = n_variants - len(variants)
    return np.pad(variants, [(0, missing), *[(0, 0)] * (variants.ndim - 1)]) if missing else variants


def shard_rows(n_images: int, k: int, n_shards: int) -> slice:
    """Rows of the k-th of `n_shards` nearly equal parts of a split.

    Raises:
        DataError: If there are more shards than images.
    """
    if n_shards > n_images:
        raise DataError(
            f"{n_shards} shards for {n_images} images: lower sampling.shards_per_share, or give the split more images"
        )
    return slice(k * n_images // n_shards, (k + 1) * n_images // n_shards)
