"""What `conffusion predict` and `conffusion evaluate` write is what the view reads."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from conffusion import Predictor
from conffusion.inference.commands import predict_images
from conffusion.inference.reader import ReadingOptions, open_reader
from conffusion.view.predictions import open_predictions
from tests.inference.small_package import small_package

SIDE = 16


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    folder = tmp_path_factory.mktemp("packages")
    return {
        "super_resolution": Predictor(small_package(folder), device="cpu", threads=1),
        "inpainting": Predictor(small_package(folder, "inpainting", kind="palette"), device="cpu", threads=1),
    }


def write(path: Path, depth: str) -> tuple[float, float] | None:
    """A smooth image; returns the value range that it needs."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    picture = np.stack([0.2 + 0.6 * x * y, 0.9 - 0.7 * x, 0.1 + 0.8 * y], axis=2)
    eight = np.rint(255 * picture).astype(np.uint8)
    if depth == "rgb8":
        Image.fromarray(eight).save(path.with_suffix(".png"))
    elif depth == "rgba8":
        Image.fromarray(np.dstack([eight, np.full((SIDE, SIDE), 200, np.uint8)])).save(path.with_suffix(".png"))
    elif depth == "grey16":
        Image.fromarray(np.rint(65535 * picture[..., 0]).astype(np.uint16)).save(path.with_suffix(".png"))
    elif depth == "twelve bits":
        tifffile.imwrite(path.with_suffix(".tif"), np.rint(4095 * picture[..., 0]).astype(np.uint16))
        return 0.0, 4095.0
    elif depth == "floats":
        tifffile.imwrite(path.with_suffix(".tif"), (1500 * picture[..., 0] - 200).astype(np.float32))
        return -200.0, 1300.0
    elif depth == "zarr":
        array = zarr.create_array(path.with_suffix(".zarr"), shape=(3, SIDE, SIDE), dtype=np.uint16)
        array[:] = np.rint(65535 * picture.transpose(2, 0, 1)).astype(np.uint16)
    return None


@pytest.mark.parametrize("task", ["super_resolution", "inpainting"])
@pytest.mark.parametrize("depth", ["rgb8", "rgba8", "grey16", "twelve bits", "floats", "zarr"])
def test_sizes_and_misses_are_those_of_the_prediction(
    predictors: dict[str, Predictor], tmp_path: Path, task: str, depth: str
) -> None:
    (tmp_path / "in").mkdir()
    options = ReadingOptions(value_range=write(tmp_path / "in" / "one", depth))
    predictor = predictors[task]
    predict_images(predictor, open_reader(predictor.package, [], [tmp_path / "in"], options), tmp_path / "out")
    gallery = open_predictions([tmp_path / "out"])
    (image,) = gallery.images()
    (one,) = image.predictions
    assert image.target is not None and image.given is not None and one.estimate is not None
    judged = np.broadcast_to(True if image.mask is None else image.mask, one.lower.shape)
    assert (image.mask is not None) == (task == "inpainting") and judged.any()
    assert (one.upper - one.lower)[judged].mean() == pytest.approx(one.size_mean, abs=1 / 255)
    missed = (image.target < one.lower) | (image.target > one.upper)
    assert missed[judged].mean() == pytest.approx(one.risk, abs=0.02)
    assert one.lower.mean() - 1e-6 <= one.estimate.mean() <= one.upper.mean() + 1e-6
