"""A folder of predictions: complete, resumable, in the input's own kind."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from conffusion import Predictor
from conffusion.errors import DataError, StoreError
from conffusion.inference.commands import predict_images
from conffusion.inference.interval import Interval
from conffusion.inference.package import Package
from conffusion.inference.reader import ReadingOptions, open_reader
from conffusion.inference.writer import image_warnings
from tests.inference.conftest import write_images


def predict(predictor: Predictor, images: list[Path], output: Path, **options: object) -> dict:
    reading = ReadingOptions(**options)  # type: ignore[arg-type]
    return predict_images(predictor, open_reader(predictor.package, images, [], reading), output)


def record(folder: Path) -> dict:
    return json.loads((folder / "interval.json").read_text())


def test_every_image_has_its_folder(enlarging: Predictor, tmp_path: Path) -> None:
    images = write_images(tmp_path / "in", ["a b.png", "ü/c.png"], side=8)
    summary = predict(enlarging, [tmp_path / "in"], tmp_path / "out")
    assert summary["n_images"] == summary["n_predicted_now"] == len(images)
    for name in ("a b", "ü/c"):
        facts = record(tmp_path / "out" / name)
        assert set(facts["files"]) == {"lower", "upper", "estimate", "input", "size", "overview"}
        for file in facts["files"].values():
            Image.open(tmp_path / "out" / name / file).load()
        assert facts["alpha"] == 0.2 and facts["unit"] == "image" and facts["risk"] is None
        assert facts["shape"] == list(
            np.asarray(Image.open(tmp_path / "out" / name / "lower.png")).transpose(2, 0, 1).shape
        )
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert [row["folder"] for row in rows] == ["a b", "ü/c"]
    assert 0 < float(rows[0]["drift_p_value"]) <= 1 and rows[0]["risk"] == ""
    assert 0 < json.loads((tmp_path / "out" / "summary.json").read_text())["drift"]["p_value"] <= 1


def test_sixteen_bit_grey_comes_back_as_such_and_rounding_loses_no_coverage(
    enlarging: Predictor, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 8), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "g.tif", pixels, resolution=(100, 100))
    predict(enlarging, [tmp_path / "g.tif"], tmp_path / "out")
    lower, upper = (tifffile.imread(tmp_path / "out" / "g" / f"{name}.tif") for name in ("lower", "upper"))
    assert lower.dtype == np.uint16 and lower.shape == (32, 32)
    interval = enlarging(pixels.astype(np.float32) / 65535)
    assert (lower / 65535 <= interval.lower[0] + 1e-6).all() and (upper / 65535 >= interval.upper[0] - 1e-6).all()
    assert any("calibrated on colour ones" in warning for warning in record(tmp_path / "out" / "g")["warnings"])


def test_what_is_done_is_kept_and_what_is_not_is_made(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "in", ["a.png", "b.png", "c.png"], side=8)
    first = predict(enlarging, [tmp_path / "in"], tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "a").iterdir()}
    (tmp_path / "out" / "b" / "interval.json").unlink()  # as after a kill
    write_images(tmp_path / "in", ["c.png"], side=8, seed=9)  # another image of the same name
    again = predict(enlarging, [tmp_path / "in"], tmp_path / "out")
    assert (first["n_predicted_now"], again["n_predicted_now"]) == (3, 2)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert again["drift"]["n_new"] == 3


def test_a_damaged_image_leaves_what_was_done(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "in", ["a.png", "b.png", "z.png"], side=64)
    whole = (tmp_path / "in" / "z.png").read_bytes()
    middle = len(whole) // 2
    (tmp_path / "in" / "z.png").write_bytes(whole[:middle] + bytes(9) + whole[middle + 9 :])
    predictor = Predictor(enlarging.package, device="cpu", batch_size=16)
    with pytest.raises(DataError, match=r"z\.png"):
        predict(predictor, [tmp_path / "in"], tmp_path / "out")
    (tmp_path / "in" / "z.png").write_bytes(whole)
    assert (tmp_path / "out" / "a" / "interval.json").is_file()
    assert not (tmp_path / "out" / "summary.json").exists()


def test_inpainting_keeps_known_pixels_to_the_last_bit(filling: Predictor, tmp_path: Path) -> None:
    (image,) = write_images(tmp_path, ["photo.png"], side=24)
    mask = np.zeros((24, 24), np.uint8)
    mask[9:14, 10:16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.jpg", quality=95)
    predict(filling, [image], tmp_path / "out", masks=tmp_path / "mask.jpg")
    known = np.asarray(Image.open(tmp_path / "out" / "photo" / "mask.png")) == 0
    original = np.asarray(Image.open(image))
    for name in ("lower", "upper", "estimate"):
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / "out" / "photo" / f"{name}.png"))[known], original[known]
        )
    facts = record(tmp_path / "out" / "photo")
    assert facts["tiles"]["n"] == 1 and known.sum() == 24 * 24 - 30


def test_the_folder_must_be_one_that_can_be_written(enlarging: Predictor, tmp_path: Path) -> None:
    (image,) = write_images(tmp_path, ["a.png"])
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match="is a file"):
        predict(enlarging, [image], tmp_path / "out")


def test_results_below_the_input_folder_are_no_images(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"], side=8)
    assert predict(enlarging, [tmp_path], tmp_path / "restored")["n_images"] == 2
    again = predict(enlarging, [tmp_path], tmp_path / "restored")
    assert (again["n_images"], again["n_predicted_now"]) == (2, 0)


def test_half_written_results_below_the_input_folder_are_no_images(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"], side=8)
    predict(enlarging, [tmp_path], tmp_path / "restored")
    (tmp_path / "restored" / "a" / "interval.json").unlink()  # what a kill before the last file leaves
    again = predict(enlarging, [tmp_path], tmp_path / "restored")
    assert (again["n_images"], again["n_predicted_now"]) == (2, 1)


def test_another_value_range_than_in_calibration_is_said(enlarging: Predictor, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((8, 8), 900, np.uint16))
    summary = predict(enlarging, [tmp_path / "a.tif"], tmp_path / "out", value_range=(0.0, 4095.0))
    assert "--value-range 0 4095" in summary["warnings"][0]
    assert not predict(enlarging, [tmp_path / "a.tif"], tmp_path / "other")["warnings"]


def test_predictions_of_two_models_are_not_mixed(enlarging: Predictor, tmp_path: Path) -> None:
    (image,) = write_images(tmp_path / "in", ["a.png"], side=8)
    predict(enlarging, [image], tmp_path / "out")
    record = enlarging.package.record
    other = record.model_copy(update={"calibration": {**record.calibration, "lambda_hat": 0.5}})
    recalibrated = Predictor(Package(other, enlarging.package.weights, enlarging.package.evidence), device="cpu")
    with pytest.raises(StoreError, match="holds predictions of another model or calibration"):
        predict(recalibrated, [image], tmp_path / "out")


@pytest.mark.parametrize(("p_value", "warns"), [(0.005, True), (0.01, True), (0.011, False), (None, False)])
def test_images_unlike_those_of_the_calibration_are_warned_of(
    enlarging: Predictor, p_value: float | None, warns: bool
) -> None:
    bounds = np.zeros((3, 16, 16), np.float32)
    interval = Interval(bounds, bounds, bounds, "midpoint", image_p_value=p_value)
    warnings = image_warnings(enlarging.package, interval)
    assert [f"(p = {p_value:.2g})" in warning for warning in warnings] == [True] * warns
