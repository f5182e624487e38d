"""The end of a run in the terminal, from the tables of a made-up run."""

from pathlib import Path

import pandas as pd
import pytest

from conffusion.pipeline.plan import config_text
from conffusion.report.summary import run_summary
from tests.pipeline.configs import config

VALIDITY = pd.DataFrame({
    "protocol": ["guaranteed", "guaranteed", "paper", "comparison"], "violation_rate": [0.05, 0.3, 0.14, 0.9],
    "standard_error": [0.01, 0.01, 0.03, 0.0],
})  # fmt: skip
CLAIMS = pd.DataFrame({
    "protocol": ["guaranteed"] * 3 + ["paper"], "verdict": ["holds", "holds", "undecided", "does not hold"]
})  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two methods; the second has no row under `paper`."""
    run = tmp_path / "results" / "try"
    (run / "tables").mkdir(parents=True)
    settings = config(run="try", tasks={"inpainting": None}, calibration={"alpha": 0.2, "delta": 0.1})
    (run / "config.yaml").write_text(config_text(settings))
    rows = [
        ("dm_sb", "paper", 0.2042, 0.31),
        ("dm_sb", "guaranteed", 0.1811, 0.33333),
        ("resnext", "guaranteed", 0.19, 0.4),
    ]
    table = pd.DataFrame(rows, columns=["method", "protocol", "risk", "interval_size_mean"])
    table.to_csv(run / "tables" / "super_resolution.csv", index=False)
    VALIDITY.to_csv(run / "tables" / "validity.csv", index=False)
    CLAIMS.to_csv(run / "tables" / "claims.csv", index=False)
    (run / "report.html").write_text("")
    return run


def test_every_method_has_risk_and_size_the_guaranteed_first(run: Path) -> None:
    lines = [line.split() for line in run_summary(run)]
    assert ["Super-resolution", "risk", "mean", "size", "risk", "mean", "size"] in lines
    assert ["guaranteed", "guaranteed", "paper", "paper"] in lines
    assert ["DM_SB", "0.181", "0.3333", "0.204", "0.3100"] in lines
    assert ["ResNeXt", "0.190", "0.4000", "–", "–"] in lines


def test_verdicts_are_counted_by_protocol(run: Path) -> None:
    text = "\n".join(run_summary(run))
    assert "Claims of the paper, protocol guaranteed: 2 holds, 0 does not hold, 1 undecided\n" in text
    assert "Claims of the paper, protocol paper: 0 holds, 1 does not hold, 0 undecided\n" in text
    assert "protocol guaranteed: risk violated no more often than delta = 0.1 in 1 of 2 rows" in text
    assert "protocol paper: risk violated no more often than delta = 0.1 in 1 of 1 rows" in text
    assert "comparison" not in text


def test_the_end_says_where_to_look(run: Path) -> None:
    *_, report, view, package = run_summary(run)
    assert report.endswith(str(run / "report.html"))
    assert f"conffusion view {run} --open" in view and f"conffusion package {run}/<task>/<method>" in package


def test_tables_that_are_not_made_are_left_out(run: Path) -> None:
    for name in ("claims", "validity"):
        (run / "tables" / f"{name}.csv").unlink()
    text = "\n".join(run_summary(run))
    assert "DM_SB" in text and "protocol" not in text


def test_without_a_report_there_is_nothing_to_say(run: Path) -> None:
    (run / "report.html").unlink()
    assert run_summary(run) == []
