"""Evaluation of one method from stores of made-up bounds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conffusion.config.schema import CalibrationSettings
from conffusion.data.splits import groups_of, write_splits
from conffusion.evaluation.drift import check_drift, interval_features
from conffusion.pipeline.stages.calibration import CalibrationFiles, calibrate_method
from conffusion.pipeline.stages.evaluation import EvaluationFiles, evaluate_method
from conffusion.store import open_store, read_json, write_store
from tests.synthetic_families import images

SETTINGS = CalibrationSettings(alpha=0.2, delta=0.2, ucb="star", families=["multiplicative"])
SPLITS = ("calibration", "test")
PER_GROUP = 10
N_GROUPS = 12


@pytest.fixture
def files(tmp_path: Path) -> EvaluationFiles:
    """Calibrated bounds of both splits: ten copies of one image are a group, and the groups differ by chance only."""
    rows = []
    for seed, split in enumerate(SPLITS):
        arrays = [np.repeat(array, PER_GROUP, axis=0) for array in images(N_GROUPS, seed=seed)]
        lower, upper, target = arrays
        ids = [f"{split}-{k}" for k in range(len(target))]
        attributes = {"forward_passes_per_image": 1, "seconds_per_image": 0.1, "n_crossed": 0}
        write_store(tmp_path / f"bounds-{split}.json", {"lower": lower, "upper": upper}, ids, attributes)
        mask = np.ones((len(ids), 1, *target.shape[2:]), dtype=np.uint8)
        stored = {"target": target, "condition": target, "mask": mask}
        write_store(tmp_path / f"{split}.json", stored, ids, {"task": "super_resolution"})
        rows += [(name, f"{split} {k // PER_GROUP}", "made up", split) for k, name in enumerate(ids)]
    write_splits(pd.DataFrame(rows, columns=["image_id", "group", "source", "split"]), tmp_path / "splits.csv")
    stores = tmp_path / "bounds-calibration.json", tmp_path / "calibration.json"
    calibration = tmp_path / "found" / "calibration.json"
    calibration.parent.mkdir()
    calibrate_method(SETTINGS, "paper", 1, CalibrationFiles(*stores, tmp_path / "splits.csv", calibration))
    return EvaluationFiles(
        calibration,
        bounds={split: tmp_path / f"bounds-{split}.json" for split in SPLITS},
        images={split: tmp_path / f"{split}.json" for split in SPLITS},
        splits=tmp_path / "splits.csv",
        metrics=tmp_path / "metrics.json",
        per_image=tmp_path / "per_image.csv",
        curve=tmp_path / "curve.csv",
        positions=tmp_path / "positions.npz",
        pool=tmp_path / "pool.npz",
    )


def test_drift_is_tested_on_whole_groups(files: EvaluationFiles, caplog: pytest.LogCaptureFixture) -> None:
    """Ten copies of an image are one piece of evidence: taken for ten, chance differences of the groups are drift."""
    evaluate_method("n_conffusion", 0, "paper", files)
    features, groups = [], []
    for split in SPLITS:
        bounds, split_images = open_store(files.bounds[split]), open_store(files.images[split])
        features.append(interval_features(bounds["lower"], bounds["upper"], split_images["mask"]))
        groups.append(groups_of(files.splits, split_images.image_ids))
    expected = check_drift(*features, reference_groups=groups[0], new_groups=groups[1])
    found = read_json(files.metrics)["drift_p_value"]
    assert found == expected.p_value > 0.01
    assert check_drift(*features).p_value < 0.01
    assert not [record for record in caplog.records if "drift test" in record.message]


def test_images_are_listed_with_their_groups(files: EvaluationFiles) -> None:
    evaluate_method("n_conffusion", 0, "paper", files)
    table = pd.read_csv(files.per_image)
    assert table["group"].nunique() == N_GROUPS and len(table) == N_GROUPS * PER_GROUP
    assert table["risk"].mean() == pytest.approx(read_json(files.metrics)["risk"])
