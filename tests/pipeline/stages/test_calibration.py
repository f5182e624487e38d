"""Calibration from stores of made-up bounds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conffusion.calibration.record import read_calibration
from conffusion.config.schema import CalibrationSettings
from conffusion.data.splits import write_splits
from conffusion.pipeline.stages.calibration import CalibrationFiles, calibrate_method
from conffusion.store import write_store
from tests.calibration_in_order import calibrate
from tests.synthetic_families import images

SETTINGS = CalibrationSettings(alpha=0.2, delta=0.2, ucb="star", families=["multiplicative"])
N_IMAGES = 60


@pytest.fixture
def files(tmp_path: Path) -> CalibrationFiles:
    """Images of groups of 1 to 20, in random order."""
    ids = [f"image-{k}" for k in range(N_IMAGES)]
    lower, upper, target = images(N_IMAGES)
    mask = np.ones((N_IMAGES, 1, *target.shape[2:]), dtype=np.uint8)
    write_store(tmp_path / "bounds.zarr", {"lower": lower, "upper": upper}, ids, {})
    write_store(tmp_path / "images.zarr", {"target": target, "condition": target, "mask": mask}, ids, {})
    groups = np.repeat([f"person {k}" for k in range(30)], [1] * 28 + [12, 20])
    groups = np.random.default_rng(0).permutation(groups)
    table = pd.DataFrame({"image_id": ids, "group": groups, "source": "made up", "split": "calibration"})
    write_splits(table, tmp_path / "splits.csv")
    stores = (tmp_path / f"{name}.json" for name in ("bounds", "images"))
    return CalibrationFiles(*stores, tmp_path / "splits.csv", tmp_path / "calibration.json")


def test_groups_are_those_of_the_splits(files: CalibrationFiles) -> None:
    calibrate_method(SETTINGS, "guaranteed", 1, files)
    found = read_calibration(files.output)
    groups = pd.read_csv(files.splits)["group"].to_numpy()
    expected = calibrate(*images(N_IMAGES), alpha=0.2, delta=0.2, ucb="star", groups=groups)
    assert (found.lambda_hat, found.risk, found.n) == (expected.lambda_hat, expected.risk, 30)
