"""The one calibration record: what is written is read, whoever wrote it, and what is none is refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conffusion.calibration import Calibration, Family
from conffusion.calibration.record import (
    CalibrationRecord,
    read_calibration,
    read_record,
    write_calibration,
)
from conffusion.errors import ConffusionError, StoreError
from tests.synthetic_families import learned_scale

CALIBRATION = Calibration(1.25, 0.08, 0.0999, 40, 0.1, 0.05, "interval", "star", "group", 120)
CONTRACT_KEYS = {
    "lambda_hat", "risk", "risk_ucb", "n_images", "n_bound", "unit", "ucb", "scaling", "alpha", "delta", "split",
    "selected_on", "checkpoint_step", "feasible",
}  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    record = CalibrationRecord(
        CALIBRATION, split="calibration", selected_on="selection", checkpoint_step=400, chosen_on="selection",
        chosen_among={"interval": 0.4, "additive": 0.5}, expected_risk=0.07,
    )  # fmt: skip
    write_calibration(tmp_path / "calibration.json", record)
    assert read_record(tmp_path / "calibration.json") == record
    assert read_calibration(tmp_path / "calibration.json") == CALIBRATION
    assert json.loads((tmp_path / "family.json").read_text()) == {"name": "interval", "shape": None}


def test_a_file_has_the_keys_of_the_contract_whoever_writes_it(tmp_path: Path) -> None:
    write_calibration(tmp_path / "calibration.json", CalibrationRecord(CALIBRATION, package="mine", model_sha256="ab"))
    values = json.loads((tmp_path / "calibration.json").read_text())
    assert set(values) == CONTRACT_KEYS | {"package", "model_sha256"}
    assert values["n_bound"] == 40 and values["split"] is None and values["feasible"] is True
    assert not (tmp_path / "family.json").exists()


def test_a_fitted_shape_is_kept_beside(tmp_path: Path) -> None:
    calibration = replace(CALIBRATION, scaling="learned", shape=learned_scale(3))
    write_calibration(tmp_path / "calibration.json", CalibrationRecord(calibration))
    lower, upper = np.full((1, 3, 8, 8), 0.4), np.linspace(0.5, 0.7, 192).reshape(1, 3, 8, 8)
    read = read_calibration(tmp_path / "calibration.json")
    for ours, theirs in zip(read.apply(lower, upper), calibration.apply(lower, upper), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert read_record(tmp_path / "calibration.json", with_shape=False).calibration.shape is None
    assert Calibration.from_dict(calibration.to_dict(), Family("learned", calibration.shape)).shape is calibration.shape

    (tmp_path / "family.json").write_text(json.dumps({"name": "pixel_groups"}))
    with pytest.raises(StoreError, match="family.json: holds no set family"):
        read_calibration(tmp_path / "calibration.json")
    (tmp_path / "family.json").write_text(json.dumps(Family("additive").to_dict()))
    with pytest.raises(StoreError, match="holds the family 'additive' but the scale is of 'learned'"):
        read_calibration(tmp_path / "calibration.json")
    (tmp_path / "family.json").unlink()
    with pytest.raises(StoreError, match="family.json"):
        read_calibration(tmp_path / "calibration.json")


def test_files_of_former_writers_are_read(tmp_path: Path) -> None:
    """`conffusion calibrate` and models in one file used to say `n`, and nothing of splits."""
    path = tmp_path / "calibration.json"
    former = {key: value for key, value in CALIBRATION.to_dict().items() if key != "n_bound"} | {"n": 40}
    path.write_text(json.dumps(former | {"package": "mine", "model_sha256": "ab"}))
    assert read_record(path) == CalibrationRecord(CALIBRATION, package="mine", model_sha256="ab")
    assert Calibration.from_dict(former) == CALIBRATION


_WRONG: dict[type, tuple[Any, ...]] = {
    float: (None, "x", True, float("nan"), float("inf"), [1]),
    int: (None, "40", True, 1.5, [1]),
    str: (None, 1, ["interval"]),
}


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, wrong) for key, right in CALIBRATION.to_dict().items() for wrong in _WRONG[type(right)]]
    + [("ucb", "magic"), ("unit", "patient"), ("scaling", "cubic")],
)
def test_a_wrong_value_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(CALIBRATION.to_dict() | {key: value}))
    with pytest.raises(ConffusionError, match=rf"calibration\.json.*{key}"):
        read_record(path)


@pytest.mark.parametrize("content", ["[1, 2]", "3", '"text"', "{}", "{", '{"lambda": 2}'])
def test_foreign_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=r"calibration\.json"):
        read_record(path)


def test_whole_numbers_will_do_for_shares(tmp_path: Path) -> None:
    values = CALIBRATION.to_dict() | {"risk": 0, "lambda_hat": 1}
    assert Calibration.from_dict(values) == replace(CALIBRATION, risk=0.0, lambda_hat=1.0)
