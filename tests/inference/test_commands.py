"""Calibration and evaluation on one's own pairs and arrays: the numbers of `calibrate`, for images of any size."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from conffusion import Predictor
from conffusion.calibration import CalibrationOptions, calibrate
from conffusion.errors import CalibrationError, ConfigError, DataError
from conffusion.inference.arrays import read_arrays
from conffusion.inference.commands import (
    calibrate_arrays,
    calibrate_package,
    evaluate_arrays,
    evaluate_package,
    predict_images,
)
from conffusion.inference.reader import Reader, ReadingOptions, open_reader
from conffusion.inference.writer import image_warnings
from tests.inference.conftest import write_images

OPTIONS = CalibrationOptions(alpha=0.3, delta=0.3)


def pairs(predictor: Predictor, folder: Path, pattern: str | None = None) -> Reader:
    return open_reader(predictor.package, [], [folder], ReadingOptions(group_pattern=pattern))


def calibrated(predictor: Predictor, folder: Path, output: Path, pattern: str | None = None) -> str:
    reader = pairs(predictor, folder, pattern)
    return calibrate_package(predictor, reader, OPTIONS, output, description="own", licence="")


@pytest.mark.parametrize("pattern", [None, r"\d(\d)"])
def test_the_scale_is_that_of_the_whole_images(enlarging: Predictor, tmp_path: Path, pattern: str | None) -> None:
    write_images(tmp_path / "in", [f"{k:02d}.png" for k in range(24)], side=16)
    verdict = calibrated(enlarging, tmp_path / "in", tmp_path / "out", pattern)
    model = Predictor.from_package(tmp_path / "out" / "model.conffusion", device="cpu")
    reader = pairs(enlarging, tmp_path / "in", pattern).shuffled()
    predicted = list(enlarging.map_uncalibrated(reader))
    most = max(interval.lower.size for _, interval in predicted)
    arrays = {name: np.zeros((24, 1, 1, most)) for name in ("lower", "upper", "target", "mask")}
    for row, (item, one) in enumerate(predicted):
        for name, values in (("lower", one.lower), ("upper", one.upper), ("target", item.target), ("mask", None)):
            arrays[name][row, 0, 0, : one.lower.size] = 1 if values is None else values.reshape(-1)
    expected = calibrate(
        arrays["lower"], arrays["upper"], arrays["target"], mask=arrays["mask"], alpha=0.3, delta=0.3,
        scaling="additive", ucb="star", groups=reader.groups, order_seed=0,
    )  # fmt: skip
    assert model.calibration.lambda_hat == expected.lambda_hat
    assert (model.calibration.unit, model.calibration.n) == (expected.unit, expected.n)
    assert model.package.record.calibrated_on.smallest == (16, 16)
    assert model.package.record.calibrated_on.largest == (16, 24)
    losses = [interval.risk(item.truth) for item, interval in model.map(reader)]
    np.testing.assert_allclose(model.package.evidence.losses, losses, atol=1e-6)
    assert (
        f"draw of the {expected.n} calibration {expected.unit}s" in verdict
        and "With the scale that the model came with" in verdict
    )
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
    assert "allowed: at most 30 %" in verdict
    assert (tmp_path / "eval" / "03" / "target.png").is_file()


def test_groups_are_the_units_of_an_evaluation(enlarging: Predictor, tmp_path: Path) -> None:
    """Of the risk and its limits, of the verdict, and of the drift check."""
    write_images(tmp_path / "in", [f"{k:02d}.png" for k in range(24)], side=16)
    write_images(tmp_path / "test", [f"{k:02d}.png" for k in range(14)], side=16, seed=7)
    calibrated(enlarging, tmp_path / "in", tmp_path / "out", r"\d(\d)")
    model = Predictor.from_package(tmp_path / "out" / "model.conffusion", device="cpu")
    assert (model.calibration.unit, model.calibration.n) == ("group", 10)
    verdict = evaluate_package(model, pairs(model, tmp_path / "test", r"\d(\d)"), tmp_path / "eval", pictures=False)
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    risks = [json.loads((tmp_path / "eval" / f"{k:02d}" / "interval.json").read_text())["risk"] for k in range(14)]
    of_groups = [np.mean([risks[k] for k in range(14) if k % 10 == group]) for group in range(10)]
    assert (metrics["unit"], metrics["n"]) == ("group", 10) and "10 groups" in verdict
    assert metrics["risk"] == pytest.approx(np.mean(of_groups), abs=1e-6) != pytest.approx(np.mean(risks), abs=1e-6)
    assert metrics["standard_error"] == pytest.approx(np.std(of_groups, ddof=1) / np.sqrt(10), abs=1e-6)
    assert metrics["drift"]["unit"] == "group" and metrics["drift"]["n_new"] == 14
    predicted = predict_images(model, pairs(model, tmp_path / "test", r"\d(\d)"), tmp_path / "p", pictures=False)
    assert predicted["drift"]["unit"] == "group"


def test_groups_of_arrays_are_the_units_of_their_evaluation(tmp_path: Path) -> None:
    paths = save(tmp_path, made_up())
    (tmp_path / "g.csv").write_text("group\n" + "".join(f"{k // 8}\n" for k in range(80)))
    bounds = read_arrays(**paths, group_csv=tmp_path / "g.csv")
    verdict = evaluate_arrays(bounds, 0.1, tmp_path / "eval", scaling="interval", lambda_hat=None)
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert (metrics["unit"], metrics["n"]) == ("group", 10) and "10 groups" in verdict


def test_a_recalibrated_model_has_the_guaranteed_protocol(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "in", [f"{k:02d}.png" for k in range(20)], side=16)
    package = enlarging.package
    pixels = {**package.record.calibration, "unit": "pixel", "n_bound": 30 * 768, "ucb": "official"}
    record = package.record.model_copy(update={"protocol": "paper", "calibration": pixels})
    of_paper = Predictor(replace(package, record=record), device="cpu")
    assert not of_paper.package.guarantee.holds
    calibrated(of_paper, tmp_path / "in", tmp_path / "out")
    model = Predictor.from_package(tmp_path / "out" / "model.conffusion", device="cpu")
    assert model.package.record.protocol == "guaranteed" and model.package.guarantee.holds
    ((_, interval),) = model.map([next(iter(pairs(model, tmp_path / "in")))])
    assert not any("guaranteed" in warning for warning in image_warnings(model.package, interval))


def test_warnings_about_values_reach_every_statement(enlarging: Predictor, tmp_path: Path) -> None:
    """12 bits in 16, as truths and as images: a guarantee of almost black images would be worth nothing."""
    truths, images, package = tmp_path / "truths", tmp_path / "images", enlarging.package
    for folder, side in ((truths, 16), (images, 4)):
        folder.mkdir()
        for k in range(12):
            values = np.random.default_rng(k).integers(0, 4096, (side, side), dtype=np.uint16)
            tifffile.imwrite(folder / f"{k:02d}.tif", values)
    expected = r"12 of the images: 16-bit values reach only \d+ of 65535; .* give --value-range 0 4095"
    verdict = calibrated(enlarging, truths, tmp_path / "c")
    assert re.search(expected, verdict) and (tmp_path / "c" / "verdict.md").read_text() == f"{verdict}\n"
    assert list(json.loads((tmp_path / "c" / "calibration.json").read_text())["warnings"].values()) == [12]
    verdict = evaluate_package(enlarging, open_reader(package, [images], [truths]), tmp_path / "e", pictures=False)
    assert re.search(expected, verdict) and "12 of the images: truth: 16-bit values" in verdict
    for file in ("metrics.json", "summary.json"):
        kinds = json.loads((tmp_path / "e" / file).read_text())["kinds_of_warnings"]
        assert sum("4095" in kind and count == 12 for kind, count in kinds.items()) == 2
    summary = predict_images(enlarging, open_reader(package, [images], []), tmp_path / "p", pictures=False)
    assert any("4095" in kind and count == 12 for kind, count in summary["kinds_of_warnings"].items())
    ranged = open_reader(package, [], [truths], ReadingOptions(value_range=(0, 4095)))
    assert "WARNING" not in calibrate_package(enlarging, ranged, OPTIONS, tmp_path / "c", description="own", licence="")


def test_too_few_pairs_say_how_many_are_needed(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "in", ["a.png", "b.png"], side=16)
    reader, strict = pairs(enlarging, tmp_path / "in"), CalibrationOptions(0.05, 0.05)
    with pytest.raises(CalibrationError, match="images would be needed"):
        calibrate_package(enlarging, reader, strict, tmp_path / "out", description="", licence="")
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
    verdict = calibrate_arrays(opened, CalibrationOptions(), tmp_path / "out")
    expected = calibrate(*arrays.values(), alpha=0.1, delta=0.1, scaling="interval", ucb="star", order_seed=0)
    found = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert found["lambda_hat"] == expected.lambda_hat and "80 calibration images" in verdict
    fresh = made_up()
    verdict = evaluate_arrays(opened, 0.1, tmp_path / "eval", scaling="interval", lambda_hat=found["lambda_hat"])
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["risk"] == pytest.approx(expected.risk) and "Risk controlled on these images" in verdict
    assert fresh.keys() == arrays.keys()


def test_a_violated_risk_is_called_so(tmp_path: Path) -> None:
    opened = read_arrays(**save(tmp_path, made_up()))
    verdict = evaluate_arrays(opened, 0.1, tmp_path / "eval", scaling="interval", lambda_hat=None)
    assert "VIOLATED" in verdict


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
        read_arrays(**paths, group_csv=tmp_path / "g.csv")


@pytest.mark.parametrize("ucb", ["clt", "official", "conformal_risk_control"])
def test_only_bounds_that_hold_for_any_number_of_units_calibrate(
    enlarging: Predictor, tmp_path: Path, ucb: str
) -> None:
    options = CalibrationOptions(ucb=ucb)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must hold for any number of units"):
        calibrate_arrays(read_arrays(**save(tmp_path, made_up())), options, tmp_path / "out")
    write_images(tmp_path / "in", ["a.png"], side=16)
    with pytest.raises(ConfigError, match="must hold for any number of units"):
        calibrate_package(
            enlarging, pairs(enlarging, tmp_path / "in"), options, tmp_path / "out", description="", licence=""
        )
    assert not (tmp_path / "out").exists()
