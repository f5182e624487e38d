from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conffusion.errors import DataError
from conffusion.report.claims import write_claims
from conffusion.report.verdict_table import claim_rows, common_note
from conffusion.report.verdicts import Region, verdict
from tests.report.tree import METHODS, Numbers, steady, write_numbers


@pytest.mark.parametrize(
    ("region", "interval", "expected"),
    [
        (Region(high=0), (-2, -1), "holds"),
        (Region(high=0), (1, 2), "does not hold"),
        (Region(high=0), (-1, 1), "undecided"),
        (Region(high=0), (0, 0), "does not hold"),
        (Region(high=0), (-1, 0), "undecided"),
        (Region(high=0.1, includes_high=True), (0.05, 0.1), "holds"),
        (Region(high=0.1, includes_high=True), (0.1, 0.2), "undecided"),
        (Region(high=0.1, includes_high=True), (0.11, 0.2), "does not hold"),
        (Region(low=0.1, high=0.12, includes_high=True), (0.101, 0.119), "holds"),
        (Region(low=0.1, high=0.12, includes_high=True), (0.09, 0.1), "does not hold"),
        (Region(low=0.1, high=0.12, includes_high=True), (0.13, 0.2), "does not hold"),
        (Region(low=0.1, high=0.12, includes_high=True), (0.09, 0.2), "undecided"),
        (Region(low=1), (10, 10), "holds"),
        (Region(low=1), (1, 1), "does not hold"),
        (Region(low=1), (float("nan"), 2), "undecided"),
    ],
)
def test_rule_of_the_verdict(region: Region, interval: tuple[float, float], expected: str) -> None:
    assert verdict(region, *interval) == expected


def test_regions_say_what_they_are() -> None:
    assert str(Region(low=0.1, high=0.12, includes_high=True)) == "above 0.1, at most 0.12"
    assert str(Region(high=0)) == "below 0"


class Made:
    """Builds one task under one protocol from a few numbers per method, and tests the claims on it."""

    def __init__(self, root: Path, task: str = "super_resolution") -> None:
        self.root, self.task, self.folders = root, task, []  # type: ignore[var-annotated]

    def add(self, method: str, size: float = 0.2, risk: float = 0.09, noise: float = 0.0, **fields: object) -> "Made":
        seed = list(METHODS).index(method)
        sizes, risks = steady(size, 80, noise * size, seed), steady(risk, 80, 0.01, seed)
        if method == "dm_sb":
            fields = {"passes": 200, "n_variants": 20, "seconds": 0.4, **fields}
        numbers = Numbers(risks, sizes, self.task, method, **fields)  # type: ignore[arg-type]
        self.folders.append(write_numbers(self.root, numbers))
        return self

    def table(self, replicates: int = 1, seed: int = 0, n_bootstrap: int = 400) -> pd.DataFrame:
        output = self.root / "claims.csv"
        write_claims(self.folders, output, alpha=0.1, n_bootstrap=n_bootstrap, seed=seed, replicates=replicates)
        return pd.read_csv(output)

    def rows(self, **options: int) -> Mapping[str, pd.Series]:
        table = self.table(**options)
        assert table["claim"].is_unique
        return {row["claim"]: row for _, row in table.iterrows()}


def test_all_claims_on_a_run_like_the_paper(tmp_path: Path) -> None:
    made = Made(tmp_path)
    for method, (size, risk, _) in METHODS.items():
        strata = np.array([0.09, 0.09, 0.1, 0.1]) if method == "dm_sba" else np.array([0.05, 0.1, 0.1, 0.12])
        made.add(method, 1.1 if method == "g_conffusion" else size, risk - 0.005, noise=0.01, strata=strata)
    rows = made.rows()
    assert len(rows) == 10
    assert {row["verdict"] for row in rows.values()} == {"holds"}
    one = rows["DM_SB has narrower intervals than ADM_UQ"]
    assert one["value"] == pytest.approx(1 / 1.15 - 1, abs=0.005)
    assert one["ci_low"] < one["value"] < one["ci_high"] < 0
    assert rows["One forward pass does instead of J·T"]["value"] == 200
    assert rows["DM_SBA has the most even size-stratified risk"]["value"] == pytest.approx(0.01 - 0.07)
    assert rows["Every method controls the risk"]["claimed"] == "at most 0.1"


def test_columns_of_the_contract(tmp_path: Path) -> None:
    table = Made(tmp_path).add("adm_uq").add("dm_sb", 0.1).table()
    wanted = {"claim", "task", "protocol", "statistic", "value", "ci_low", "ci_high", "verdict", "note"}
    assert wanted <= set(table.columns)
    assert "In parentheses" in (tmp_path / "claims.md").read_text()
    assert (tmp_path / "claims.tex").read_text().isascii()


def test_claims_that_fail(tmp_path: Path) -> None:
    made = Made(tmp_path).add("adm_uq", 0.1).add("dm_sba", 0.3, strata=np.array([0.0, 0.1, 0.1, 0.3]))
    rows = made.add("n_conffusion", 0.2, risk=0.15).add("g_conffusion", 0.4).add("resnext", 0.3).rows()
    assert {row["verdict"] for row in rows.values()} == {"does not hold"}
    assert rows["Every method controls the risk"]["note"].startswith("largest: N-Conffusion; ")
    narrowest = rows["N-Conffusion and DM_SBA have the narrowest intervals"]
    assert narrowest["value"] == pytest.approx(2)  # the wider of the two against the best of the others
    assert narrowest["note"].startswith("best competitor: ADM_UQ; ")


def test_claims_that_stay_open(tmp_path: Path) -> None:
    rows = Made(tmp_path).add("adm_uq", 0.2, noise=0.3).add("g_conffusion", 0.2, noise=0.3, risk=0.1).rows()
    assert rows["G-Conffusion has narrower intervals than ADM_UQ"]["verdict"] == "undecided"
    assert rows["Every method controls the risk"]["verdict"] == "undecided"


def test_claims_about_inpainting(tmp_path: Path) -> None:
    made = Made(tmp_path, "inpainting").add("dm_sba", 0.5).add("n_conffusion", 0.4, risk=0.108).add("resnest", 0.3)
    rows = made.rows()
    assert set(rows) == {
        "DM_SBA has the most even size-stratified risk",
        "N-Conffusion has the narrowest intervals",
        "N-Conffusion slightly exceeds the risk",
    }
    assert rows["N-Conffusion slightly exceeds the risk"]["verdict"] == "holds"
    assert rows["N-Conffusion has the narrowest intervals"]["value"] == pytest.approx(1 / 3)


def test_far_above_the_risk_is_not_slightly(tmp_path: Path) -> None:
    rows = Made(tmp_path, "inpainting").add("n_conffusion", risk=0.2).rows()
    assert rows["N-Conffusion slightly exceeds the risk"]["verdict"] == "does not hold"


def test_methods_not_in_the_run_leave_their_claims_out(tmp_path: Path) -> None:
    assert list(Made(tmp_path).add("resnext").table()["claim"]) == ["Every method controls the risk"]
    empty = Made(tmp_path / "b", "inpainting").add("resnext").table()
    assert empty.empty and "verdict" in empty


def test_protocols_are_tested_apart(tmp_path: Path) -> None:
    made = Made(tmp_path)
    for protocol, size in (("paper", 0.1), ("guaranteed", 0.3)):
        made.add("adm_uq", 0.2, protocol=protocol).add("g_conffusion", size, protocol=protocol)
    table = made.table()
    table = table[table["claim"] == "G-Conffusion has narrower intervals than ADM_UQ"]
    assert dict(zip(table["protocol"], table["verdict"], strict=True)) == {
        "guaranteed": "does not hold", "paper": "holds",
    }  # fmt: skip
    (row,) = claim_rows(table)
    assert list(row.cells) == ["guaranteed", "paper"]
    assert str(row.cells["paper"]) == "holds (−50.0 %)"


def test_note_names_the_randomness_covered(tmp_path: Path) -> None:
    rows = Made(tmp_path).add("adm_uq").add("dm_sb", 0.1).rows()
    alone = "one fine-tuning run: the interval does not cover training randomness"
    assert rows["DM_SB has narrower intervals than ADM_UQ"]["note"] == f"DM_SB (J = 20); {alone}"
    assert rows["One forward pass does instead of J·T"]["note"].endswith("counted, not estimated")
    assert common_note(pd.DataFrame(rows.values())) == alone


def test_replicates_widen_the_interval(tmp_path: Path) -> None:
    """One lucky run seems to decide; three runs that differ do not."""
    name = "G-Conffusion has narrower intervals than ADM_UQ"
    one = Made(tmp_path / "one").add("adm_uq", 0.2).add("g_conffusion", 0.15).rows()[name]
    made = Made(tmp_path / "three")
    for k, size in enumerate((0.15, 0.2, 0.28)):
        made.add("adm_uq", 0.2, replicate=k).add("g_conffusion", size, replicate=k)
    three = made.rows(replicates=3)[name]
    assert (one["verdict"], three["verdict"]) == ("holds", "undecided")
    assert three["value"] == pytest.approx(0.05)
    assert three["note"] == "test images and 3 fine-tuning runs resampled"


def test_number_of_replicates_is_checked(tmp_path: Path) -> None:
    made = Made(tmp_path).add("adm_uq").add("dm_sb").add("adm_uq", replicate=1)
    assert not made.table(replicates=2).empty  # DM_SB is not fine-tuned: one is enough
    with pytest.raises(DataError, match="adm_uq: 2 replicates were given, but replicates = 3"):
        made.table(replicates=3)


def test_one_group_decides_nothing(tmp_path: Path) -> None:
    made = Made(tmp_path).add("adm_uq", 0.2, groups=["a"] * 80).add("g_conffusion", 0.1, groups=["a"] * 80)
    row = made.rows()["G-Conffusion has narrower intervals than ADM_UQ"]
    assert row["verdict"] == "undecided" and pd.isna(row["ci_low"])
    assert row["value"] == pytest.approx(-0.5)


def test_same_seed_same_intervals(tmp_path: Path) -> None:
    made = Made(tmp_path).add("adm_uq", noise=0.1).add("g_conffusion", noise=0.1)
    first = made.table(seed=1)
    pd.testing.assert_frame_equal(first, made.table(seed=1))
    assert not first["ci_low"].equals(made.table(seed=2)["ci_low"])
