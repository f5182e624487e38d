"""Reads the fixtures of tests/fixtures/conformance: weights and inputs by rule, comparison with stored outputs."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).parent / "fixtures" / "conformance"

Array = npt.NDArray[Any]


def load(name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Description and arrays of one fixture, for example load("sr3/small_net")."""
    description = json.loads((ROOT / f"{name}.json").read_text())
    arrays = ROOT / f"{name}.npz"
    if not arrays.exists():
        return description, {}
    with np.load(arrays) as file:
        return description, dict(file)


def value(key: str, shape: Sequence[int], salt: str = "") -> Array:
    """Float32 value of the parameter called `key`: normal noise seeded by the name and scaled by its role."""
    generator = np.random.default_rng(zlib.crc32((salt + key).encode()))
    noise = generator.standard_normal(tuple(shape)).astype(np.float32)
    if len(shape) > 1:
        return noise * np.float32(1 / np.sqrt(np.prod(shape[1:], dtype=np.int64)))
    offset = np.float32(1 if key.endswith("weight") else 0)
    return offset + np.float32(0.1) * noise


def fill_state_dict(module: "nn.Module", salt: str = "", prefix: str = "") -> None:
    """Give every parameter its value by rule; buffers stay."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(value(prefix + name, parameter.shape, salt)))


def make(rule: Mapping[str, Any]) -> Array:
    """Array that a rule of a fixture describes."""
    return np.asarray(_MAKERS[rule["rule"]](rule)).astype(rule.get("dtype", "float32"))


def _center_mask(rule: Mapping[str, Any]) -> Array:
    mask = np.zeros(rule["shape"])
    height, width = mask.shape[-2:]
    top, left = height // 4, width // 4
    mask[..., top : top + height // 2, left : left + width // 2] = 1
    return mask


_MAKERS = {
    "value": lambda rule: rule["value"],
    "const": lambda rule: np.full(rule["shape"], rule["value"]),
    "normal": lambda rule: np.random.default_rng(rule["seed"]).standard_normal(rule["shape"]) * rule.get("scale", 1.0),
    "uniform": lambda rule: (
        rule["lo"] + (rule["hi"] - rule["lo"]) * np.random.default_rng(rule["seed"]).random(rule["shape"])
    ),
    "center_mask": _center_mask,
}


class Draws:
    """Standard normal noise for a sampler: calls continue one generator."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def next(self, shape: Sequence[int]) -> Array:
        """Next float32 array of a shape."""
        return self._generator.standard_normal(tuple(shape)).astype(np.float32)


def synthetic_bounds(seed: int, n: int, c: int, h: int, w: int, spread: float) -> tuple[Array, Array, Array]:
    """Lower bounds, upper bounds and truth, (n, c, h, w) float32 in [0, 1]; the order of the draws matters."""
    generator = np.random.default_rng(seed)
    truth = generator.uniform(0.05, 0.95, (n, c, h, w))
    half_width = generator.uniform(0.02, 0.20, truth.shape) * generator.uniform(0.5, 1.5, (n, c, 1, 1))
    centre = truth + half_width * spread * generator.standard_normal(truth.shape)
    lower, upper = centre - half_width, centre + half_width
    return _pixels(lower), _pixels(upper), _pixels(truth)


def _pixels(image: Array) -> Array:
    return np.clip(image, 0, 1).astype(np.float32)


def blocky_image(seed: int, size: int = 256, cells: int = 16) -> Array:
    """Stand-in for a photograph: (size, size, 3) uint8, coloured cells with mild noise."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, 256, (cells, cells, 3))
    noise = generator.integers(-20, 21, (size, size, 3))
    side = size // cells
    return np.clip(colours.repeat(side, axis=0).repeat(side, axis=1) + noise, 0, 255).astype(np.uint8)


def stored_part(spec: Mapping[str, Any], full: Any) -> Array:
    """The part of a full output that a fixture stores; the shape of the full one must agree."""
    array = np.asarray(full)
    assert list(array.shape) == list(spec.get("shape", array.shape))
    return array[tuple(slice(*bounds) for bounds in spec["slice"])] if "slice" in spec else array


def max_diff(description: Mapping[str, Any], arrays: Mapping[str, Array], name: str, full: Any) -> float:
    """Largest absolute difference between a full output and what the fixture stores of it."""
    part = stored_part(description["outputs"][name], full).astype(np.float64)
    return float(np.abs(part - arrays[name]).max())
