"""Data of the stats/calibrate_* fixtures, rebuilt from their rules."""

from typing import Any

import numpy as np

from tests import conformance

Array = conformance.Array


def bounds(case: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Lower bounds, upper bounds and truth of one case, its special rule applied."""
    lower, upper, truth = conformance.synthetic_bounds(*(case[key] for key in ("seed", "n", "c", "h", "w", "spread")))
    special = case.get("special", "")
    if "swapped" in special:
        return upper, lower, truth
    if special:
        left_out = truth > (0.94 if "0.94" in special else 2)
        lower, upper = (np.where(left_out, 0, scale * truth).astype(np.float32) for scale in (0.5, 1.5))
    return lower, upper, truth


def mask(case: dict[str, Any], truth: Array) -> Array:
    """Centre mask, thinned out for two of three images under "mixed_mask"."""
    box = conformance.make({"rule": "center_mask", "shape": list(truth.shape)})
    if case.get("mask") == "mixed_mask":
        for index in range(len(box)):
            if index % 3:
                box[index, :, :: index % 3 + 1] = 0
    return box
