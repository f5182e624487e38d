"""Calibration and evaluation on one's own pairs and arrays: the numbers of `calibrate`, for images of any size."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from conffusion import Predictor
from conffusion.calibration import calibrate
from conffusion.errors import CalibrationError, ConfigError, DataError
from conffusion.inference.arrays import read_arrays, read_groups
from conffusion.inference.calibrating import Promise, calibrate_arrays, calibrate_package
from conffusion.inference.evaluating import evaluate_arrays, evaluate_package
from conffusion.inference.inputs import InputOptions, gather
from tests.inference.conftest import write_images

PROMISE = Promise(alpha=0.3, delta=0.3)


def pairs(predictor: Predictor, folder: Path, pattern: str | None = None):
    return gather(predictor.task, 5, [], [folder], InputOptions(group_pattern=pattern), predictor.tile_size)


def calibrated(predictor: Predictor, folder: Path, output: Path, pattern: str | None = None) -> str:
    inputs = pairs(predictor, folder, pattern)
    return calibrate_package(predictor, inputs, PROMISE, output, description="own", licence="")


@pytest.mark.parametrize("pattern", [None, r"\d(\d)"])
def test_the_scale_is_that_of_the_whole_images(enlarging: Predictor, tmp_path: Path, pattern: str | None) -> None:
    write_images(tmp_path / "in", [f"{k:02d}.png" for k in range(24)], side=16)
    verdict = calibrated(enlarging, tmp_path / "in", tmp_path / "out", pattern)
    model = Predictor.from_package(tmp_path / "out" / "model.conffusion", device="cpu")
    inputs = pairs(enlarging, tmp_path / "in", pattern).shuffled(5)
    items = [inputs.load(name) for name in inputs.names]
    unscaled = list(enlarging.unscaled([(item.image, None) for item in items]))
    most = max(one.lower.size for one in unscaled)
    arrays = {name: np.zeros((24, 1, 1, most)) for name in ("lower", "upper", "target", "mask")}
    for row, (one, item) in enumerate(zip(unscaled, items, strict=True)):
        for name, values in (("lower", one.lower), ("upper", one.upper), ("target", item.target), ("mask", None)):
            arrays[name][row, 0, 0, : one.lower.size] = 1 if values is None else values.reshape(-1)
    expected = calibrate(
        arrays["lower"], arrays["upper"], arrays["target"], mask=arrays["mask"], alpha=0.3, delta=0.3,
        scaling="additive", ucb="star", groups=inputs.groups, order_seed=0,
    )  # fmt: skip
    assert model.calibration.lambda_hat == expected.lambda_hat
    assert (model.calibration.unit, model.calibration.n) == (expected.unit, expected.n)
    assert model.package.record.calibrated_on.smallest == (16, 16)
    assert model.package.record.calibrated_on.largest == (16, 24)
    losses = [model.scale(one).risk(item.target) for one, item in zip(unscaled, items, strict=True)]
    np.testing.assert_allclose(model.package.evidence.losses, losses, atol=1e-6)
    assert f"Calibrated on {expected.n}" in verdict and "With the scale that the model came with" in verdict
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["lambda_hat"] == expected.lambda_hat
    assert (tmp_path / "out" / "risk_curve.csv").read_text().startswith("lambda,risk,risk_ucb,interval_size_mean\n")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "calibration.json", "model.conffusion", "risk_curve.csv", "risk_curve.png", "verdict.md"
    ]  # fmt: skip


def test_a_recalibrated_model_is_evaluated_on_other_images(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "in", [f"{k:02d}.png" for k in range(30)], side=16)
    write_images(tmp_path / "test", [f"{k:02d}.png" for k in range(20)], side=16, seed=7)
    calibrated(enlarging, tmp_path / "in", tmp_path / "out")
    model = Predictor.from_package(tmp_path / "out" / "model.conffusion", device="cpu")
    verdict = evaluate_package(model, pairs(model, tmp_path / "test"), tmp_path / "eval")
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    risks = [json.loads((tmp_path / "eval" / f"{k:02d}" / "interval.json").read_text())["risk"] for k in range(20)]
    assert metrics["risk"] == pytest.approx(np.mean(risks), abs=1e-6) and metrics["n"] == 20
    assert metrics["risk"] < 0.35 and metrics["drift"]["p_value"] > 0.01
    assert "promised: at most 30%" in verdict
    assert (tmp_path / "eval" / "03" / "target.png").is_file()


def test_warnings_about_values_are_part_of_the_verdict(enlarging: Predictor, tmp_path: Path) -> None:
    """12 bits in 16, as truths and as images: a guarantee of almost black images would be worth nothing."""
    truths, images = tmp_path / "truths", tmp_path / "images"
    for folder, side in ((truths, 16), (images, 4)):
        folder.mkdir()
        for k in range(12):
            values = np.random.default_rng(k).integers(0, 4096, (side, side), dtype=np.uint16)
            tifffile.imwrite(folder / f"{k:02d}.tif", values)
    expected = r"WARNING: 12 of the pairs: 16-bit values reach only \d+ of 65535; .* give --value-range 0 4095"
    verdict = calibrated(enlarging, truths, tmp_path / "out")
    assert re.search(expected, verdict) and (tmp_path / "out" / "verdict.md").read_text() == f"{verdict}\n"
    assert re.search(expected, evaluate_package(enlarging, pairs(enlarging, truths), tmp_path / "eval"))
    inputs = gather(enlarging.task, 5, [images], [truths], InputOptions(), enlarging.tile_size)
    verdict = evaluate_package(enlarging, inputs, tmp_path / "eval")
    assert re.search(expected, verdict) and "WARNING: 12 of the pairs: truth: 16-bit values" in verdict
    inputs = gather(enlarging.task, 5, [], [truths], InputOptions(value_range=(0, 4095)), enlarging.tile_size)
    assert "WARNING" not in calibrate_package(
        enlarging, inputs, PROMISE, tmp_path / "out", description="own", licence=""
    )


def test_too_few_pairs_say_how_many_are_needed(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "in", ["a.png", "b.png"], side=16)
    inputs = pairs(enlarging, tmp_path / "in")
    with pytest.raises(CalibrationError, match="images would be needed"):
        calibrate_package(enlarging, inputs, Promise(0.05, 0.05), tmp_path / "out", description="", licence="")
    assert not list((tmp_path / "out").iterdir())


def made_up(n_images: int = 80) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    target = generator.random((n_images, 1, 6, 6)).astype(np.float32)
    centre = target + 0.1 * generator.standard_normal(target.shape).astype(np.float32)
    return {"lower": np.clip(centre - 0.1, 0, 1), "upper": np.clip(centre + 0.1, 0, 1), "target": target}


def save(folder: Path, arrays: dict[str, np.ndarray]) -> dict[str, Path]:
    """One of each kind."""
    np.save(folder / "lower.npy", arrays["lower"][:, 0])
    zarr.save_array(folder / "upper.zarr", arrays["upper"])
    np.save(folder / "target.npy", arrays["target"])
    return {"lower": folder / "lower.npy", "upper": folder / "upper.zarr", "target": folder / "target.npy"}


def test_bounds_of_any_method_are_calibrated_and_judged(tmp_path: Path) -> None:
    arrays = made_up()
    opened = read_arrays(**save(tmp_path, arrays))
    verdict = calibrate_arrays(opened, Promise(), tmp_path / "out", scaling="interval", groups=None)
    expected = calibrate(*arrays.values(), alpha=0.1, delta=0.1, scaling="interval", ucb="star", order_seed=0)
    found = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert found["lambda_hat"] == expected.lambda_hat and "Calibrated on 80 images" in verdict
    fresh = made_up()
    verdict = evaluate_arrays(
        opened, 0.1, tmp_path / "eval", scaling="interval", lambda_hat=found["lambda_hat"], groups=None
    )
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["risk"] == pytest.approx(expected.risk) and "Kept on these images" in verdict
    assert fresh.keys() == arrays.keys()


def test_a_broken_promise_is_called_broken(tmp_path: Path) -> None:
    opened = read_arrays(**save(tmp_path, made_up()))
    verdict = evaluate_arrays(opened, 0.1, tmp_path / "eval", scaling="interval", lambda_hat=None, groups=None)
    assert "BROKEN" in verdict


def test_unsuitable_arrays_are_refused(tmp_path: Path) -> None:
    paths = save(tmp_path, made_up())
    np.save(tmp_path / "short.npy", made_up(5)["upper"])
    with pytest.raises(DataError, match=r"short\.npy: has shape \(5, 1, 6, 6\)"):
        read_arrays(**{**paths, "upper": tmp_path / "short.npy"})
    with pytest.raises(DataError, match=r"gone\.npy: is missing"):
        read_arrays(**{**paths, "upper": tmp_path / "gone.npy"})
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"evil\.npy: cannot be read as an array"):
        read_arrays(**{**paths, "target": tmp_path / "evil.npy"})
    np.save(tmp_path / "half.npy", np.full((80, 6, 6), 0.5))
    with pytest.raises(DataError, match="0 and 1 only"):
        read_arrays(**paths, mask=tmp_path / "half.npy")
    np.save(tmp_path / "rgb.npy", np.zeros((40, 30, 3), np.uint8))
    with pytest.raises(DataError, match="a single image is no calibration set"):
        read_arrays(*[tmp_path / "rgb.npy"] * 3)
    (tmp_path / "g.csv").write_text("group\na\n")
    with pytest.raises(DataError, match="1 rows for 80 images"):
        read_groups(tmp_path / "g.csv", 80)


def test_only_bounds_that_hold_are_promised() -> None:
    for ucb in ("clt", "official", "conformal_risk_control"):
        with pytest.raises(ConfigError, match="must hold for any number of units"):
            Promise(ucb=ucb)
    with pytest.raises(ConfigError, match="alpha"):
        Promise(alpha=1.5)
