"""What an ONNX file says about itself: the model and its guarantee, and what goes in and comes out."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from conffusion.calibration.krcps import PixelGroups
from conffusion.contrib.onnx.graph import ExportedPredictor
from conffusion.inference.package import Package

METADATA_KEY = "conffusion"
_IMAGES = "(n, 3, height, width) float32"
_INPUTS: Mapping[str, str] = {
    "condition": f"{_IMAGES} in [0, 1]: the corrupted image; for super-resolution already enlarged by `factor` "
    "(Pillow's bicubic filter on 8-bit pixels); grey images repeated in three channels; height and width multiples of "
    "`size_multiple`",
    "mask": "(n, 1, height, width) float32: 1 where pixels are missing, 0 where they are known; holes no larger than "
    "`hole`, which was the hole of the training in an image of `tile_size`",
    "noise": f"{_IMAGES}, standard normal, independent for each image; the same again for the same bounds again",
    "labels": "(n,) int64, uniform over 0 .. `n_classes` - 1, independent for each image",
}
_OUTPUTS: Mapping[str, str] = {
    "lower": f"{_IMAGES} in [0, 1]: calibrated lower bound; known pixels as given",
    "upper": f"{_IMAGES} in [0, 1]: calibrated upper bound; known pixels as given",
    "estimate": f"{_IMAGES} in [0, 1]: see `estimate`",
    "lower_unclipped": f"{_IMAGES}: to be blended where tiles overlap, then clipped to [0, 1]",
    "upper_unclipped": f"{_IMAGES}: likewise",
}


def describe(package: Package, predictor: ExportedPredictor) -> dict[str, Any]:
    """The metadata of a file, plain values: the model and its guarantee, and how the graph is used."""
    record, calibration = package.record, package.calibration
    hole = np.argwhere(package.task.mask((1, 1, record.image_size, record.image_size))[0, 0])
    (top, left), (bottom, right) = hole.min(axis=0).tolist(), (hole.max(axis=0) + 1).tolist()
    return {
        "format": 1,
        **package.facts,
        "name": record.name,
        "degradation": record.degradation,
        "factor": package.task.factor,
        "family": calibration.family.name,
        "calibrated_on": record.calibrated_on.model_dump(mode="json"),
        "calibrated_in": "bfloat16" if record.bfloat16 else "float32",
        "tile_size": record.image_size,
        "overlap": record.overlap,
        "size_multiple": predictor.size_multiple,
        "any_size": takes_any_size(package),
        "hole": {"top": top, "left": left, "bottom": bottom, "right": right} if predictor.has_mask else None,
        "n_classes": predictor.n_classes,
        "estimate": "point_head" if predictor.has_point_head else "midpoint",
        "inputs": {name: _INPUTS[name] for name in predictor.inputs},
        "outputs": dict(_OUTPUTS),
    }


def takes_any_size(package: Package) -> bool:
    """Whether the graph takes images of other sizes than the tile's."""
    return not isinstance(package.calibration.shape, PixelGroups)
