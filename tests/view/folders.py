"""Folders of predictions for tests, in the format of `conffusion predict`, and a reader of the pages made of them."""

import base64
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
import zarr
from PIL import Image

Levels = npt.NDArray[Any]  # (C, H, W) uint8 or uint16


@dataclass(frozen=True)
class Made:
    """Pixel levels of one made-up prediction."""

    lower: Levels
    upper: Levels
    estimate: Levels
    target: Levels | None = None
    mask: npt.NDArray[np.bool_] | None = None
    suffix: str = ".png"
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missed(self) -> npt.NDArray[np.bool_]:
        assert self.target is not None
        return (self.target < self.lower) | (self.target > self.upper)


def made(
    seed: int, shape: tuple[int, int, int] = (3, 12, 16), depth: int = 8, truth: bool = True, **extra: Any
) -> Made:
    """A smooth picture with a corner of wide intervals and a truth that is missed here and there."""
    generator = np.random.default_rng(seed)
    kind, top = (np.uint8, 255) if depth == 8 else (np.uint16, 65535)
    channels, height, width = shape
    y, x = np.mgrid[:height, :width] / max(height, width)
    wave = 0.5 + 0.25 * np.sin(6 * x + generator.uniform(0, 6)) * np.cos(5 * y + generator.uniform(0, 6))
    picture = np.stack([np.clip(wave + 0.06 * c, 0.05, 0.95) for c in range(channels)])
    width_map = 0.02 + 0.2 * (x * y) + 0.02 * generator.random((channels, height, width))
    lower, upper = np.clip(picture - width_map, 0, 1), np.clip(picture + width_map, 0, 1)
    target = np.clip(picture + width_map * generator.normal(0, 0.6, shape), 0, 1)
    low, high, middle, true = (np.rint(array * top).astype(kind) for array in (lower, upper, picture, target))
    return Made(low, high, middle, true if truth else None, **extra)


def write_prediction(folder: Path, prediction: Made) -> None:
    """One image, interval.json last."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"lower": prediction.lower, "upper": prediction.upper, "estimate": prediction.estimate}
    if prediction.target is not None:
        parts["target"] = prediction.target
    for name, levels in parts.items():
        _write(folder / f"{name}{prediction.suffix}", levels)
    eight = (
        prediction.estimate if prediction.estimate.dtype == np.uint8 else (prediction.estimate >> 8).astype(np.uint8)
    )
    _write(folder / "input.png", eight)
    if prediction.mask is not None:
        Image.fromarray(prediction.mask.astype(np.uint8) * 255).save(folder / "mask.png")
    top = np.iinfo(prediction.lower.dtype).max
    judged = np.broadcast_to(True if prediction.mask is None else prediction.mask, prediction.lower.shape)
    sizes = (prediction.upper.astype(float) - prediction.lower)[judged] / top
    record = {
        "image": folder.name, "task": "super_resolution", "method": "n_conffusion", "protocol": "guaranteed",
        "alpha": 0.1, "delta": 0.1, "lambda_hat": 1.01, "unit": "image", "n": 200, "n_images": 200,
        "estimate": "point_head", "model_sha256": "0" * 64, "drift_p_value": 0.4,
        "interval_size_mean": float(sizes.mean()), "interval_size_median": float(np.median(sizes)),
        "risk": None if prediction.target is None else float(prediction.missed[judged].mean()),
        "warnings": [], "files": {name: f"{name}{prediction.suffix}" for name in parts},
        "shape": list(prediction.lower.shape), "bit_depth": 8 if top == 255 else 16, "seconds": 0.1,
    }  # fmt: skip
    (folder / "interval.json").write_text(json.dumps(record | dict(prediction.record)))


def write_predictions(root: Path, images: Mapping[str, Made], drift: Mapping[str, Any] | None = None) -> Path:
    """A finished folder."""
    for name, prediction in images.items():
        write_prediction(root / name, prediction)
    (root / "predictions.csv").write_text("image,folder,risk,interval_size_mean,drift_p_value,seconds\n")
    (root / "summary.json").write_text(json.dumps({"drift": drift or {"p_value": 0.5, "warning": None}}))
    return root


def _write(path: Path, levels: Levels) -> None:
    if path.suffix == ".zarr":
        array = zarr.create_array(path, shape=levels.shape, dtype=levels.dtype, chunks=levels.shape)
        array[:] = levels
    elif path.suffix == ".tif":
        tifffile.imwrite(path, levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    else:
        Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)).save(path)


def read_index(page: Path) -> dict[str, Any]:
    """What the scripts of a page are told."""
    found = re.search(r'<script type="application/json" id="index">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def read_planes(page: Path, place: int) -> dict[str, npt.NDArray[Any]]:
    """Planes of one image, (C, H, W), as whole numbers; a second implementation of pixels.js."""
    index = read_index(page)
    image = index["images"][place]
    height, width = (-(-(side - _first(image)) // image["step"]) for side in image["size"])
    text = re.search(rf'<script type="text/plain" id="p{place}">([^<]*)</script>', page.read_text())
    assert text
    content, planes = zlib.decompress(base64.b64decode(text[1])), {}
    for name, channels, bits in index["layouts"][image["layout"]]:
        shape = channels, height, width
        n = channels * height * width
        if bits == 1:
            part, content = content[: -(-n // 8)], content[-(-n // 8) :]
            planes[name] = np.unpackbits(np.frombuffer(part, np.uint8), count=n).reshape(shape).astype(bool)
            continue
        part, content = content[: n * bits // 8], content[n * bits // 8 :]
        steps = np.frombuffer(part, np.uint8).astype(np.int64)
        steps = steps if bits == 8 else steps[:n] * 256 + steps[n:]
        planes[name] = (np.cumsum(steps) % 2**bits).reshape(shape).astype(np.uint8 if bits == 8 else np.uint16)
    assert not content
    return planes


def _first(image: Mapping[str, Any]) -> int:
    half = image["step"] // 2
    return 0 if half >= min(image["size"]) else half
