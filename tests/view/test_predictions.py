import json
from pathlib import Path

import numpy as np
import pytest

from conffusion.errors import DataError, StoreError
from conffusion.view.predictions import is_predictions, open_predictions
from tests.view.folders import Made, made, write_prediction, write_predictions


def change(record: Path, **values: object) -> None:
    record.write_text(json.dumps({**json.loads(record.read_text()), **values}))


@pytest.mark.parametrize(
    "prediction",
    [made(0), made(1, (1, 9, 5)), made(2, (1, 9, 5), 16), made(3, (3, 6, 6), 16, suffix=".tif"),
     made(4, (1, 6, 7), 16, suffix=".tif"), made(5, (3, 6, 7), 16, suffix=".zarr"), made(6, truth=False)],
    ids=["colour", "grey", "grey16", "tiff", "grey tiff", "zarr", "no truth"],
)  # fmt: skip
def test_pixels_are_those_of_the_files(tmp_path: Path, prediction: Made) -> None:
    gallery = open_predictions([write_predictions(tmp_path / "out", {"a/b": prediction})])
    (image,) = gallery.images()
    (one,) = image.predictions
    top = np.iinfo(prediction.lower.dtype).max
    assert image.name == "a/b" and gallery.shapes == (prediction.lower.shape[1:],)
    for read, levels in (
        (one.lower, prediction.lower),
        (one.upper, prediction.upper),
        (one.estimate, prediction.estimate),
    ):
        assert np.array_equal(np.rint(np.asarray(read, dtype=float) * top), levels)
    assert (image.target is None) == (prediction.target is None)
    assert one.risk == (None if prediction.target is None else prediction.missed.mean())


def test_masks_are_read(tmp_path: Path) -> None:
    mask = np.zeros((12, 16), dtype=bool)
    mask[3:6, 4:9] = True
    (image,) = open_predictions([write_predictions(tmp_path, {"x": made(0, mask=mask)})]).images()
    assert image.mask is not None and np.array_equal(image.mask, mask)


def test_warnings_of_drift_reach_the_page(tmp_path: Path) -> None:
    root = write_predictions(tmp_path, {"x": made(0)}, drift={"p_value": 0.002, "warning": "do not rely on it"})
    (side,) = open_predictions([root]).sides
    assert side.warnings == ("do not rely on it",) and side.drift_p_value == 0.002
    (root / "summary.json").unlink()
    assert "is not finished" in open_predictions([root]).sides[0].warnings[0]


def test_warnings_of_all_images_are_those_of_the_page(tmp_path: Path) -> None:
    own, common = ["grey"], ["tiled", "grey"]
    images = {"x": made(0, record={"warnings": common}), "y": made(1, record={"warnings": own})}
    gallery = open_predictions([write_predictions(tmp_path, images)])
    assert gallery.sides[0].warnings == ("grey",)
    assert [image.predictions[0].warnings for image in gallery.images()] == [("tiled", "grey"), ("grey",)]


def test_incomplete_images_are_left_out_and_named(tmp_path: Path) -> None:
    root = write_predictions(tmp_path, {"x": made(0), "y": made(1)})
    (root / "y" / "interval.json").unlink()
    gallery = open_predictions([root])
    assert [image.name for image in gallery.images()] == ["x"]
    assert any("1 incomplete images" in note and "y" in note for note in gallery.notes)
    (root / "x" / "interval.json").unlink()
    with pytest.raises(DataError, match=r"no complete prediction.*2 images are incomplete"):
        open_predictions([root])


def test_two_folders_are_compared_on_their_common_images(tmp_path: Path) -> None:
    first = write_predictions(tmp_path / "new", {"x": made(0), "y": made(1)})
    second = write_predictions(tmp_path / "old", {"y": made(2), "z": made(3)})
    gallery = open_predictions([first, second])
    (image,) = gallery.images()
    assert image.name == "y" and len(image.predictions) == 2
    assert [side.label for side in gallery.sides] == ["N-Conffusion (new)", "N-Conffusion (old)"]
    assert sum("not shown" in note for note in gallery.notes) == 2
    with pytest.raises(DataError, match="no image in common"):
        open_predictions([first, write_predictions(tmp_path / "third", {"w": made(0)})])
    with pytest.raises(DataError, match=r"y: has the shapes 3x8x8 and 3x12x16"):
        open_predictions([first, write_predictions(tmp_path / "fourth", {"y": made(0, (3, 8, 8))})])


def test_a_folder_holds_one_model(tmp_path: Path) -> None:
    root = write_predictions(tmp_path, {"x": made(0), "y": made(1, record={"lambda_hat": 1.3})})
    with pytest.raises(DataError, match=r"different models \(lambda_hat is 1\.01 for .* and 1\.3 for"):
        open_predictions([root])


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    root = write_predictions(tmp_path, {"x": made(0)})
    (root / "x" / "upper.png").unlink()
    with pytest.raises(DataError, match=r"upper\.png: is missing"):
        list(open_predictions([root]).images())
    write_prediction(root / "x", made(0))
    (root / "x" / "lower.png").write_bytes((root / "x" / "lower.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"lower\.png"):
        list(open_predictions([root]).images())
    write_prediction(root / "x", made(0))
    change(root / "x" / "interval.json", shape=[3, 5, 5])
    with pytest.raises(DataError, match=r"3x12x16 values but interval\.json says 3x5x5"):
        list(open_predictions([root]).images())
    (root / "x" / "interval.json").write_text('{"alpha": 0.1}')
    with pytest.raises(StoreError, match=r"interval\.json: lacks protocol, delta"):
        open_predictions([root])


def test_other_folders_are_no_predictions(tmp_path: Path) -> None:
    assert not is_predictions(tmp_path)
    write_prediction(tmp_path / "deep" / "er", made(0))
    assert is_predictions(tmp_path)
