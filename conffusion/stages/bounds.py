"""Bounds before calibration: quantiles of sampled variants, and how bounds of every method are stored."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from conffusion.arrays import FloatArray
from conffusion.bounds import sampled_bounds, sort_bounds
from conffusion.methods.protocols import PROTOCOLS
from conffusion.store import SealedStore, open_store, read_array, write_store


def extract_bounds(alpha: float, *, shards: Sequence[str | Path], outputs: Mapping[str, str | Path]) -> None:
    """DM_SB's bounds: the alpha/2 and 1 - alpha/2 quantiles of each pixel (Horwitz and Hoshen 2022, eq. 4).

    Args:
        alpha: Risk level.
        shards: Variant stores of a split, in the order of its images.
        outputs: Store to write for each protocol.
    """
    lower, upper, records = [], [], []
    ids: list[str] = []
    n_drawn: list[int] = []
    for shard in shards:
        store = open_store(shard)
        for row in range(len(store.image_ids)):
            bounds = _image_bounds(store, row, alpha)
            lower.append(bounds[0])
            upper.append(bounds[1])
        n_drawn += read_array(store["n_variants"]).tolist()
        ids += store.image_ids
        records.append(store.attributes)
    attributes: dict[str, object] = {
        "n_variants": _whole(float(np.mean(n_drawn))),
        "forward_passes_per_image": float(np.mean([record["forward_passes_per_image"] for record in records])),
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


def _image_bounds(store: SealedStore, row: int, alpha: float) -> tuple[FloatArray, FloatArray]:
    """Bounds of one image in [0, 1] from the variants that were drawn of it."""
    n_drawn = int(read_array(store["n_variants"], slice(row, row + 1))[0])
    variants = read_array(store["variants"], slice(row, row + 1))[0, :n_drawn]
    lower, upper = sampled_bounds(variants, alpha / 2, 1 - alpha / 2)
    return (lower / 255, upper / 255) if variants.dtype == np.uint8 else (lower, upper)


def _whole(number: float) -> float | int:
    return int(number) if number.is_integer() else number
