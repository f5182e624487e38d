"""Variants of every image by diffusion, one shard of images at a time."""

import time
from pathlib import Path

from conffusion.compute import Compute
from conffusion.config.schema import PriorSettings, SamplingSettings
from conffusion.errors import DataError
from conffusion.models.networks import load_prior, load_weights
from conffusion.sampling import Sampling, SamplingInput, draw_variants
from conffusion.store import open_store, read_array, write_store
from conffusion.tasks import build_task
from conffusion.training.priors import architecture_of


def sample_variants(
    prior: PriorSettings,
    sampling: SamplingSettings,
    seed: int,
    compute: Compute,
    *,
    checkpoint: str | Path,
    images: str | Path,
    shard: tuple[int, int],
    output: str | Path,
) -> None:
    """Draw and store the variants of one shard of images: array variants (images, variants, C, H, W).

    Args:
        prior: Settings of the task's diffusion prior.
        sampling: Settings of the sampler.
        seed: The run's seed.
        compute: Device and precision.
        checkpoint: Weights of the prior.
        images: Image store of the split.
        shard: (k, K): the k-th of K nearly equal parts of the split's rows, counted from 0.
        output: Store to write.
    Raises:
        CheckpointError: If the prior is unreadable or of another architecture.
        StoreError: If the images are incomplete, or the disk refuses.
    """
    store = open_store(images)
    rows = shard_rows(len(store.image_ids), *shard)
    ids, task = store.image_ids[rows], str(store.attributes["task"])
    architecture = architecture_of(prior)
    network = architecture.build_prior()
    load_weights(network, load_prior(checkpoint, architecture))
    schedule = architecture.build_schedule()
    if schedule is None or not prior.task:
        raise ValueError(f"{checkpoint}: only a diffusion prior conditioned on a task can be sampled")
    inputs = SamplingInput(
        task,
        seed,
        ids,
        read_array(store["condition"], rows),
        read_array(store["mask"], rows),
        build_task(task).known_outside,
    )
    settings = Sampling(**sampling.model_dump(exclude={"images_per_shard", "shards_per_share", "variants_url"}))
    start = time.perf_counter()
    variants = draw_variants(compute.place(network), schedule, inputs, settings, compute)
    n_calls = schedule.n_timesteps if settings.solver == "ancestral" else settings.n_steps
    attributes = {
        "task": task,
        "seed": seed,
        "sampling": sampling.model_dump(),
        "schedule": dict(architecture.schedule or {}),
        "forward_passes_per_image": n_calls * settings.n_variants,
        "seconds_per_image": (time.perf_counter() - start) / len(ids),
    }
    write_store(output, {"variants": variants}, list(ids), attributes, url=sampling.variants_url)


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
