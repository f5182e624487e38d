"""Splits, and the images of every task."""

import logging
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conffusion.config.schema import DatasetSettings
from conffusion.core.arrays import FloatArray, iterate_blocks
from conffusion.core.randomness import keyed_generator
from conffusion.data.datasets import Dataset, build_dataset
from conffusion.data.parallel import DEFAULT_WORKERS
from conffusion.data.splits import assign_splits, read_splits, write_splits
from conffusion.pipeline.settings import ImageStage, SplitStage
from conffusion.store import ArraySpec, new_store
from conffusion.tasks import build_task

LOGGER = logging.getLogger(__name__)
BLOCK_BYTES = 256 * 10**6  # of target images in memory at a time, in float32


def configured_dataset(
    settings: DatasetSettings, image_size: int, seed: int, resample: str = "bicubic", workers: int = DEFAULT_WORKERS
) -> Dataset:
    """The dataset that the configuration names, at the size of the run's largest images; `workers` read its files."""
    if settings.name == "faces":
        sizes = settings.splits.model_dump().values()
        extra: dict[str, Any] = {"seed": seed, "n_images": int(sum(sizes)), **settings.faces.model_dump()}
    else:
        extra = {**settings.folder.model_dump(), "resample": resample, "workers": workers}
    return build_dataset(settings.name, image_size=image_size, **extra)


def split_images(
    settings: SplitStage,
    output: str | Path,
    check: Callable[[pd.DataFrame], object] = lambda splits: None,
    workers: int = DEFAULT_WORKERS,
) -> None:
    """Deal images, by whole groups, to the splits: `splits.csv`.

    Raises:
        DataError: If an image is unreadable, or there are too few for the splits asked for.
        ConffusionError: Whatever `check` has against the table; nothing is written then.
    """
    table = configured_dataset(settings.dataset, settings.image_size, settings.seed, workers=workers).table()
    splits = assign_splits(table, settings.dataset.splits.model_dump(), settings.seed)
    for split, rows in splits.groupby("split", sort=False):
        LOGGER.info("%s: %d images in %d groups", split, len(rows), rows["group"].nunique())
    check(splits)
    write_splits(splits, output)


def prepare_images(
    settings: ImageStage,
    *,
    splits: str | Path,
    split: str,
    output: str | Path,
    workers: int = DEFAULT_WORKERS,
) -> None:
    """Images of one task and split: arrays target, condition, mask (N, C, H, W) and image_id.

    Rows stand in a seeded random order, fixed before any result is seen, because the betting bound depends on order.

    Args:
        settings: Which images, and how they are degraded.
        splits: splits.csv.
        split: Name of the split.
        output: Store to write.
        workers: Threads that read and decode files.
    """
    seed, side = settings.seed, settings.side
    rows = read_splits(splits)
    rows = rows[rows["split"] == split]
    order = keyed_generator("order", seed, split).permutation(len(rows))
    ids = [str(image_id) for image_id in rows["image_id"].sort_values().to_numpy()[order]]
    images = configured_dataset(settings.dataset, settings.image_size, seed, settings.resample, workers)
    sized = cache(images.at_side)  # files are listed once for all blocks
    corrupt = build_task(settings.task, **settings.degradation)
    layout = {
        "target": ArraySpec((3, side, side), np.float32),
        "condition": ArraySpec((3, side, side), np.float32),
        "mask": ArraySpec((3, side, side), np.uint8),
    }
    attributes = {"task": settings.task, "split": split, "seed": seed, "degradation": dict(settings.degradation)}
    with new_store(output, layout, ids, attributes) as writer:
        for part in iterate_blocks(len(ids), max(1, BLOCK_BYTES // layout["target"].row_bytes)):
            load = partial(_load, sized, ids[part])
            target = load(side)
            condition, mask = corrupt.apply(target, ids[part], seed, load)
            writer.append({"target": target, "condition": condition, "mask": mask})


def _load(sized: Callable[[int], Dataset], ids: Sequence[str], side: int) -> FloatArray:
    return sized(side).load(ids).astype(np.float32, copy=False)
