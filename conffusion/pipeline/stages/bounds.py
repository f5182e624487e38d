"""Bounds before calibration: quantiles of sampled variants, and how bounds of every method are stored."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conffusion.bounds import sampled_bounds, sort_bounds
from conffusion.core.arrays import FloatArray
from conffusion.core.progress import Progress
from conffusion.methods.protocols import PROTOCOLS
from conffusion.store import ArraySpec, StoreWriter, blocks, new_store, open_store, read_array


def extract_bounds(alpha: float, *, shards: Sequence[str | Path], outputs: Mapping[str, str | Path]) -> None:
    """DM_SB's bounds: the alpha/2 and 1 - alpha/2 quantiles of each pixel (Horwitz and Hoshen 2022, eq. 4).

    Args:
        alpha: Risk level.
        shards: Variant stores of a split, in the order of its images.
        outputs: Store to write for each protocol.
    Raises:
        StoreError: If a shard is missing or damaged, or the disk refuses.
    """
    stores = [open_store(shard) for shard in shards]
    records = [store.attributes for store in stores]
    n_drawn = np.concatenate([read_array(store["n_variants"]) for store in stores])
    attributes = {
        "n_variants": _whole(float(n_drawn.mean())),
        "forward_passes_per_image": float(np.mean([record["forward_passes_per_image"] for record in records])),
        "seconds_per_image": float(np.mean([record["seconds_per_image"] for record in records])),
    }
    ids = [image_id for store in stores for image_id in store.image_ids]
    shape = stores[0]["variants"].shape[2:]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(new_bounds(output, shape, ids, protocol, attributes))
            for protocol, output in outputs.items()
        ]
        images = chain.from_iterable(block for store in stores for block in blocks(store["variants"]))
        progress = Progress("extracting bounds", len(ids), unit="images")
        for variants, n_variants in zip(images, n_drawn, strict=True):
            lower, upper = _image_bounds(variants[:n_variants], alpha)
            for writer in writers:
                writer.append(lower[None], upper[None])
            progress.update()


class BoundsWriter:
    """Takes the bounds of one split in the order of its images; counts crossed ones, and sorts them if it is to.

    Attributes:
        attributes: Record of how the bounds were made; may be changed until the store is closed.
    """

    def __init__(self, writer: StoreWriter, *, sorts: bool) -> None:
        self.attributes = writer.attributes
        self.attributes["n_crossed"] = 0
        self._writer, self._sorts = writer, sorts

    def append(self, lower: FloatArray, upper: FloatArray) -> None:
        """Take the bounds of the next images, (n, C, H, W) each."""
        ordered_lower, ordered_upper, n_crossed = sort_bounds(lower, upper)
        self.attributes["n_crossed"] += int(n_crossed)
        if self._sorts:
            lower, upper = ordered_lower, ordered_upper
        self._writer.append({"lower": lower.astype(np.float32), "upper": upper.astype(np.float32)})


@contextmanager
def new_bounds(
    output: str | Path,
    shape: tuple[int, ...],
    image_ids: Sequence[str],
    protocol: str,
    attributes: Mapping[str, object],
) -> Iterator[BoundsWriter]:
    """Store bounds of one split block by block: arrays lower and upper, crossed ones sorted where the protocol says so.

    Args:
        output: Store to write.
        shape: (C, H, W) of an image.
        image_ids: Ids of the split's images, in order.
        protocol: Whose bounds they are.
        attributes: Record of how the bounds were made.
    Raises:
        StoreError: As `conffusion.store.new_store`.
    """
    spec = ArraySpec(tuple(shape), np.float32)
    with new_store(output, {"lower": spec, "upper": spec}, image_ids, attributes) as writer:
        yield BoundsWriter(writer, sorts=PROTOCOLS[protocol].sorts_bounds)


def _image_bounds(variants: npt.NDArray[Any], alpha: float) -> tuple[FloatArray, FloatArray]:
    """Bounds of one image in [0, 1] from its (J, C, H, W) variants."""
    lower, upper = sampled_bounds(variants, alpha / 2, 1 - alpha / 2)
    return (lower / 255, upper / 255) if variants.dtype == np.uint8 else (lower, upper)


def _whole(number: float) -> float | int:
    return int(number) if number.is_integer() else number
