from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conffusion.errors import DataError
from conffusion.report.readable import duration, integer, percent, readable, significant, with_variants
from conffusion.report.tables import write_pretraining_table, write_task_table
from conffusion.report.writing import latex
from tests.report.tree import Numbers, steady, write_numbers

CONTRACT = [
    "method", "protocol", "risk", "interval_size_mean", "interval_size_median", "stratified_risk_1",
    "stratified_risk_2", "stratified_risk_3", "stratified_risk_4", "stratified_risk_official_1",
    "stratified_risk_official_2", "stratified_risk_official_3", "stratified_risk_official_4",
    "lambda_hat", "n_calibration", "n_bound", "n_test",
    "n_variants", "forward_passes_per_image", "seconds_per_image",
]  # fmt: skip


def method_run(root: Path, size: float = 0.2, risk: float = 0.1, **fields: object) -> Path:
    return write_numbers(root, Numbers(steady(risk, 6), steady(size, 6), **fields))  # type: ignore[arg-type]


def test_task_table_has_the_columns_of_the_contract(tmp_path: Path) -> None:
    folders = [
        method_run(tmp_path, method="n_conffusion", protocol="paper"),
        method_run(tmp_path, method="n_conffusion"),
        method_run(tmp_path, method="dm_sb", n_variants=20, passes=200),
    ]
    write_task_table(folders, tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert set(CONTRACT) <= set(table.columns)
    assert [*zip(table["method"], table["protocol"], strict=True)] == [
        ("dm_sb", "guaranteed"), ("n_conffusion", "guaranteed"), ("n_conffusion", "paper"),
    ]  # fmt: skip
    assert table.loc[0, "n_variants"] == 20 and pd.isna(table.loc[1, "n_variants"])
    assert list(table["n_bound"]) == [200, 200, 614400]
    assert list(table["replicates"]) == [1, 1, 1]
    np.testing.assert_allclose(table.loc[0, ["stratified_risk_1", "stratified_risk_official_4"]].tolist(), [0.06, 0.13])


def test_task_table_averages_replicates(tmp_path: Path) -> None:
    folders = [
        method_run(tmp_path, size=size, risk=0.08 + k / 100, replicate=k) for k, size in enumerate((0.1, 0.2, 0.6))
    ]
    write_task_table(folders, tmp_path / "table.csv")
    (row,) = pd.read_csv(tmp_path / "table.csv").to_dict("records")
    assert row["interval_size_mean"] == pytest.approx(0.3)
    assert row["risk"] == pytest.approx(0.09)
    assert row["risk_sd"] == pytest.approx(0.01)
    assert row["interval_size_sd"] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert row["replicates"] == 3
    assert "Runs" in (tmp_path / "table.md").read_text()


def test_task_table_refuses_two_tasks(tmp_path: Path) -> None:
    folders = [method_run(tmp_path), method_run(tmp_path, task="inpainting")]
    with pytest.raises(DataError, match="super_resolution, inpainting"):
        write_task_table(folders, tmp_path / "table.csv")


def test_tables_for_people(tmp_path: Path) -> None:
    folders = [method_run(tmp_path, method="dm_sb", n_variants=20, passes=200), method_run(tmp_path, protocol="paper")]
    write_task_table(folders, tmp_path / "table.csv")
    markdown, tex = (tmp_path / "table.md").read_text(), (tmp_path / "table.tex").read_text()
    assert "DM_SB (J = 20)" in markdown and r"DM\_SB (J = 20)" in tex
    assert "0.060 / 0.080 / 0.100 / 0.120" in markdown
    assert "λ̂" in markdown and r"$\hat\lambda$" in tex
    assert "stratified_risk" not in markdown and "official unit is one channel of an image" in markdown
    assert tex.isascii()
    body = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") for line in body}) == 1 and len(body) == 3


def test_latex_escapes_what_it_must() -> None:
    text = latex(pd.DataFrame({"a_b": ["50 % & {x} #1 $ ~ ^ \\ −1 λ̂ 2 × 3"]}))
    assert r"50 \% \& \{x\} \#1 \$ \textasciitilde{} \textasciicircum{} \textbackslash{} $-$1" in text
    assert r"$\hat\lambda$ 2 $\times$ 3" in text


def test_pretraining_table_compares_with_g_conffusion(tmp_path: Path) -> None:
    sizes = {"g_conffusion": 0.2, "resnext": 0.25, "resnest": 0.19, "n_conffusion": 0.1}
    folders = [
        method_run(tmp_path, size=size, method=method, task=task)
        for method, size in sizes.items()
        for task in ("inpainting", "super_resolution")
    ]
    write_pretraining_table(folders, tmp_path / "pretraining.csv")
    table = pd.read_csv(tmp_path / "pretraining.csv")
    assert list(table["task"]) == ["super_resolution"] * 3 + ["inpainting"] * 3
    assert list(table["method"]) == ["g_conffusion", "resnext", "resnest"] * 2
    np.testing.assert_allclose(table["size_relative_to_g_conffusion"][:3], [0, 0.25, -0.05], atol=1e-12)
    assert "−5.0 %" in (tmp_path / "pretraining.md").read_text()


def test_pretraining_table_without_its_methods(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="resnext"):
        write_pretraining_table([method_run(tmp_path)], tmp_path / "pretraining.csv")
    write_pretraining_table([method_run(tmp_path, method="resnext")], tmp_path / "pretraining.csv")
    assert pd.read_csv(tmp_path / "pretraining.csv")["size_relative_to_g_conffusion"].isna().all()


def test_numbers_for_people() -> None:
    assert [significant(3)(value) for value in (0.0, 1234.5, 0.012345, -2.0, 3e-7)] == [
        "0", "1234", "0.0123", "−2.00", "3e−07",
    ]  # fmt: skip
    assert integer(614400) == "614\u202f400" and percent(-0.0123) == "−1.2 %"
    assert [duration(value) for value in (0, 0.0021, 3.25, 600)] == ["0 s", "2.1 ms", "3.2 s", "10 min"]


def test_j_is_added_to_tables_that_lack_it() -> None:
    table = with_variants(pd.DataFrame({"method": ["dm_sb", "resnext"], "risk": [0.1, None]}), 20)
    assert readable(table).to_dict("list") == {"Method": ["DM_SB (J = 20)", "ResNeXt"], "Risk": ["0.100", "–"]}
