"""Small photographs on disk, and predictors around untrained networks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conffusion import Predictor
from tests.inference.small_package import small_package


def write_images(folder: Path, names: list[str], side: int = 16, seed: int = 0, mode: str = "RGB") -> list[Path]:
    """Smooth random images, larger ones for later names."""
    generator, files = np.random.default_rng(seed), []
    for k, name in enumerate(names):
        coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        size = (side + 4 * (k % 3), side)
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).convert(mode).resize(size, Image.Resampling.BICUBIC).save(file)
        files.append(file)
    return files


@pytest.fixture(scope="session")
def enlarging(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(small_package(tmp_path_factory.mktemp("enlarging")), device="cpu", threads=1)


@pytest.fixture(scope="session")
def filling(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    package = small_package(tmp_path_factory.mktemp("filling"), "inpainting", kind="palette")
    return Predictor(package, device="cpu", threads=1)
