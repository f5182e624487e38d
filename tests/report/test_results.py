from pathlib import Path

import numpy as np
import pytest

from conffusion.errors import DataError, StoreError
from conffusion.report.results import load_results, method_label, result_label, select
from tests.report.tree import Numbers, steady, write_numbers


def method_run(root: Path, **fields: object) -> Path:
    return write_numbers(root, Numbers(steady(0.1, 5), steady(0.2, 5), **fields))  # type: ignore[arg-type]


def test_results_come_in_the_order_of_the_registries(tmp_path: Path) -> None:
    folders = [
        method_run(tmp_path, method="resnext", protocol="paper"),
        method_run(tmp_path, method="adm_uq", protocol="paper", task="inpainting"),
        method_run(tmp_path, method="dm_sb", replicate=1),
        method_run(tmp_path, method="dm_sb", protocol="paper"),
        method_run(tmp_path, method="dm_sb"),
    ]
    found = [(one.task, one.method, one.replicate, one.protocol) for one in load_results(folders)]
    assert found == [
        ("super_resolution", "dm_sb", 0, "guaranteed"),
        ("super_resolution", "dm_sb", 0, "paper"),
        ("super_resolution", "dm_sb", 1, "guaranteed"),
        ("super_resolution", "resnext", 0, "paper"),
        ("inpainting", "adm_uq", 0, "paper"),
    ]


def test_ids_and_groups_are_text(tmp_path: Path) -> None:
    folder = method_run(tmp_path, groups=["007", "007", "8", "9", "NA"])
    (result,) = load_results([folder])
    assert list(result.per_image["group"])[:4] == ["007", "007", "8", "9"]
    assert result.per_image["group"].nunique(dropna=False) == 4
    np.testing.assert_allclose(result.per_image["interval_size"], 0.2)


def test_labels_name_j(tmp_path: Path) -> None:
    results = load_results(
        [method_run(tmp_path, method="dm_sb", n_variants=20), method_run(tmp_path, method="n_conffusion")]
    )
    assert [result_label(result) for result in results] == ["DM_SB (J = 20)", "N-Conffusion"]
    assert select(results, method="dm_sb") == results[:1]
    assert method_label("something_new") == "something_new"


def test_same_arm_twice_is_refused(tmp_path: Path) -> None:
    folders = [method_run(tmp_path / "a"), method_run(tmp_path / "b")]
    with pytest.raises(DataError, match="same task, method, replicate and protocol"):
        load_results(folders)


def test_no_folder_is_refused() -> None:
    with pytest.raises(DataError, match="no result folders"):
        load_results([])


@pytest.mark.parametrize("name", ["metrics.json", "calibration.json", "per_image.csv"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = method_run(tmp_path)
    (folder / name).unlink()
    with pytest.raises(StoreError, match=name):
        load_results([folder])


@pytest.mark.parametrize(("content", "message"), [("image_id,group\na,a\n", "lacks risk"), ("", "cannot be read")])
def test_broken_table_is_named(tmp_path: Path, content: str, message: str) -> None:
    folder = method_run(tmp_path)
    (folder / "per_image.csv").write_text(content)
    with pytest.raises(StoreError, match=message):
        load_results([folder])
