"""Bounds before calibration: quantiles of sampled variants, and how bounds of every method are stored."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from conffusion.arrays import FloatArray
from conffusion.bounds import sampled_bounds, sort_bounds
from conffusion.methods.protocols import PROTOCOLS
from conffusion.progress import Progress
from conffusion.store import open_store, read_array, write_store


def extract_bounds(alpha: float, *, shards: Sequence[str | Path], outputs: Mapping[str, str | Path]) -> None:
    """DM_SB's bounds: the alpha/2 and 1 - alpha/2 quantiles of each pixel (Horwitz and Hoshen 2022, eq. 4).

    Args:
        alpha: Risk level.
        shards: Variant stores of a split, in the order of its images.
        outputs: Store to write for each protocol.
    """
    lower, upper, records = [], [], []
    ids: list[str] = []
    progress = Progress("extracting bounds", len(shards), unit="shards")
    for shard in shards:
        store = open_store(shard)
        for row in range(len(store.image_ids)):
            variants = _to_01(read_array(store["variants"], slice(row, row + 1))[0])
            bounds = sampled_bounds(variants, alpha / 2, 1 - alpha / 2)
            lower.append(bounds[0])
            upper.append(bounds[1])
        ids += store.image_ids
        records.append(store.attributes)
        progress.update()
    attributes = {
        "n_variants": records[0]["sampling"]["n_variants"],
        "forward_passes_per_image": records[0]["forward_passes_per_image"],
        "seconds_per_image": float(np.mean([record["seconds_per_image"] for record in records])),
    }
    bounds = np.stack(lower), np.stack(upper)
    for protocol, output in outputs.items():
        write_bounds(output, bounds, ids, protocol, attributes)


def write_bounds(
    output: str | Path,
    bounds: tuple[FloatArray, FloatArray],
    image_ids: Sequence[str],
    protocol: str,
    attributes: dict[str, object],
) -> None:
    """Store bounds of one split, crossing ones counted, and sorted where the protocol says so."""
    ordered_lower, ordered_upper, n_crossed = sort_bounds(*bounds)
    lower, upper = (ordered_lower, ordered_upper) if PROTOCOLS[protocol].sorts_bounds else bounds
    arrays = {"lower": lower.astype(np.float32), "upper": upper.astype(np.float32)}
    write_store(output, arrays, list(image_ids), {**attributes, "n_crossed": int(n_crossed)})


def _to_01(variants: npt.NDArray[np.generic]) -> FloatArray:
    values = variants.astype(np.float32)
    return values / 255 if variants.dtype == np.uint8 else values
