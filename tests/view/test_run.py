from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from conffusion.calibration import Calibration
from conffusion.errors import DataError
from conffusion.metrics import image_losses
from conffusion.store import write_json, write_store
from conffusion.view.page import write_page
from conffusion.view.run import is_run, open_run
from tests.view.folders import read_index, read_planes

IDS = {
    "calibration": [f"face-{k}" for k in range(30)],
    "test": [f"face-{k}" for k in range(100, 170)],
}  # 70: two blocks


def write_bounds(folder: Path, target: np.ndarray, ids: list[str], width: float) -> None:
    generator = np.random.default_rng(1)
    middle = np.clip(target + width * generator.normal(0, 0.7, target.shape), 0, 1)
    bounds = {"lower": np.clip(middle - width, 0, 1), "upper": np.clip(middle + width, 0, 1)}
    write_store(folder, {name: array.astype(np.float32) for name, array in bounds.items()}, ids, {})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two methods on inpainting, as the stages leave it."""
    root, generator = tmp_path / "default", np.random.default_rng(0)
    task = root / "inpainting"
    for split, ids in IDS.items():
        target = generator.uniform(0, 1, (len(ids), 3, 8, 8)).astype(np.float32)
        mask = np.zeros(target.shape, dtype=np.uint8)
        mask[..., 2:6, 2:6] = 1
        write_store(
            task / "images" / f"{split}.zarr",
            {"target": target, "condition": target * (1 - mask), "mask": mask},
            ids,
            {},
        )
        for method, width in (("dm_sb", 0.1), ("n_conffusion", 0.05)):
            write_bounds(task / method / "guaranteed" / "bounds" / f"{split}.zarr", target, ids, width)
    for method, scale in (("dm_sb", 1.1), ("n_conffusion", 1.25)):
        method_run = task / method / "guaranteed"
        write_json(method_run / "calibration.json", {
            "lambda_hat": scale, "risk": 0.08, "risk_ucb": 0.1, "n_images": 30, "n_bound": 30, "unit": "image",
            "ucb": "star", "scaling": "interval", "alpha": 0.1, "delta": 0.1,
        })  # fmt: skip
        variants = 20 if method == "dm_sb" else None
        write_json(method_run / "metrics.json", {"method": method, "replicate": 0, "n_variants": variants})
    rows = [(one, one, "faces", split) for split, ids in IDS.items() for one in ids]
    pd.DataFrame(rows, columns=["image_id", "group", "source", "split"]).to_csv(root / "splits.csv", index=False)
    (root / "config.yaml").write_text(yaml.safe_dump({"run": "default"}))
    return root


def test_shown_are_the_calibrated_bounds_of_the_test_images(run: Path, tmp_path: Path) -> None:
    from conffusion.store import open_store

    page = write_page(open_run(run), tmp_path / "view.html").path
    index = read_index(page)
    assert [image["name"] for image in index["images"]] == IDS["test"]
    assert [side["label"] for side in index["sides"]] == ["N-Conffusion", "DM_SB (J = 20)"]
    bounds = open_store(run / "inpainting" / "n_conffusion" / "guaranteed" / "bounds" / "test.zarr")
    images = open_store(run / "inpainting" / "images" / "test.zarr")
    calibration = Calibration(1.25, 0.08, 0.1, 30, 0.1, 0.1, "interval", "star", "image", 30)
    lower, upper = calibration.apply(bounds["lower"][:], bounds["upper"][:])
    target, mask = images["target"][:], images["mask"][:]
    risks, sizes = image_losses(lower, upper, target, mask)
    for place in (0, 65, 69):
        planes = read_planes(page, place)
        assert np.array_equal(planes["lower0"], np.rint(lower[place] * 65535))
        assert np.array_equal(planes["upper0"], np.rint(upper[place] * 65535))
        missed = (target[place] < lower[place]) | (target[place] > upper[place])
        assert np.array_equal(planes["missed0"], missed)
        assert np.array_equal(planes["mask"][0], mask[place, 0] == 1) and "estimate0" not in planes
        assert index["images"][place]["predictions"][0]["risk"] == pytest.approx(risks[place], rel=1e-5)
        assert index["images"][place]["predictions"][0]["size"] == pytest.approx(sizes[place], rel=1e-5)
    assert index["sides"][0]["mean_risk"] == pytest.approx(risks.mean(), rel=1e-4)
    drift = [image["predictions"][0]["drift"] for image in index["images"]]
    assert all(1 / 31 - 1e-6 <= value <= 1 for value in drift) and len(set(drift)) > 5
    assert not index["sides"][0]["warnings"]


def test_drift_of_the_test_images_is_warned_of(run: Path) -> None:
    folder = run / "inpainting" / "n_conffusion" / "guaranteed" / "bounds" / "test.zarr"
    write_bounds(folder, np.full((70, 3, 8, 8), 0.9, dtype=np.float32), IDS["test"], 0.02)
    first, second = open_run(run).sides
    assert "do not rely on the guaranteed risk" in first.warnings[0] and not second.warnings


def test_what_is_asked_for_must_be_there(run: Path) -> None:
    assert is_run(run) and not is_run(run / "inpainting")
    assert [side.label for side in open_run(run, methods=["dm_sb"]).sides] == ["DM_SB (J = 20)"]
    with pytest.raises(DataError, match=r"--task super_resolution: .* has inpainting"):
        open_run(run, task="super_resolution")
    with pytest.raises(DataError, match=r"--method resnet: .* has dm_sb, n_conffusion|n_conffusion, dm_sb"):
        open_run(run, methods=["resnet"])
    with pytest.raises(DataError, match="no method is calibrated under the protocol paper"):
        open_run(run, protocol="paper")
    with pytest.raises(DataError, match="--protocol fair: must be one of"):
        open_run(run, protocol="fair")
