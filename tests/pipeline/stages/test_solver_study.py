"""The solver study: sizes at the risk level, ratios to the reference, early stops, and the choice."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from conffusion.bounds import sampled_bounds
from conffusion.calibration import critical_lambda
from conffusion.config.schema import SolverStudySettings
from conffusion.evaluation.scores import crps
from conffusion.pipeline.stages.solver_study import choose_solver, measure_solvers, write_choice
from conffusion.report.figures.solvers import _draw, plot_solvers
from conffusion.report.writing import write_table
from conffusion.store import open_store, read_array, write_store

SHAPE = (3, 6, 6)
ALPHA = 0.1
SETTINGS = SolverStudySettings(
    n_images=10, solvers={"dpmpp_2m_sde": [3, 4], "ancestral": [50]}, n_variants=[6, 12, 24],
    reference={"solver": "ancestral", "n_steps": 50, "n_variants": 12}, tolerance=0.01,
    precisions=[0.001, 0.04, 1.0], round=4,
)  # fmt: skip


def make_images(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    target = generator.uniform(0.3, 0.7, (14, *SHAPE)).astype(np.float32)
    mask = np.zeros((14, *SHAPE), np.uint8)
    mask[..., 1:5, 1:5] = 1
    write_store(folder / "selection", {"target": target, "mask": mask}, [str(k) for k in range(14)], {})
    return folder / "selection.json"


def make_variants(folder: Path, solver: str, n_steps: int, n_variants: int, spread: float) -> Path:
    """Variants around the truth and an error of their own, `spread` times as wide as the error."""
    generator = np.random.default_rng(1)
    centre = np.random.default_rng(0).uniform(0.3, 0.7, (14, *SHAPE))[:10, None]
    error = generator.normal(0, 0.03, (10, 1, *SHAPE))
    drawn = centre + error + spread * generator.normal(0, 0.03, (10, 40, *SHAPE))[:, :n_variants]
    values = (drawn.clip(0, 1) * 255).round().astype(np.uint8)
    attributes = {
        "task": "inpainting", "sampling": {"solver": solver}, "seconds_per_image": 2.0,
        "forward_passes_per_image": n_steps * n_variants,
    }  # fmt: skip
    write_store(folder / f"{solver}-{n_steps}", {"variants": values}, [str(k) for k in range(10)], attributes)
    return folder / f"{solver}-{n_steps}.json"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("study")
    images = make_images(folder)
    variants = [
        make_variants(folder, "dpmpp_2m_sde", 3, 12, spread=0.3),
        make_variants(folder, "dpmpp_2m_sde", 4, 24, spread=1.0),
        make_variants(folder, "ancestral", 50, 12, spread=1.0),
    ]
    measure_solvers(SETTINGS, ALPHA, 5, images=images, variants=variants, output=folder / "rows.csv")
    return folder, pd.read_csv(folder / "rows.csv")


def row(table: pd.DataFrame, solver: str, n_steps: int, n_variants: int) -> pd.Series:
    chosen = table[(table["solver"] == solver) & (table["n_steps"] == n_steps) & (table["n_variants"] == n_variants)]
    return chosen[chosen["precision"].isna()].iloc[0]


def test_size_is_that_of_bounds_scaled_to_the_risk_level(study: tuple[Path, pd.DataFrame]) -> None:
    folder, table = study
    pool = read_array(open_store(folder / "ancestral-50.json")["variants"])
    images = open_store(folder / "selection.json")
    mask = read_array(images["mask"])[:10] == 1
    target = read_array(images["target"])[:10].astype(np.float64)
    pairs = [sampled_bounds(variants / 255.0, 0.05, 0.95) for variants in pool]
    lower, upper = (np.stack(side)[mask] for side in zip(*pairs, strict=True))
    scale = np.quantile(critical_lambda(lower, upper, target[mask]), 0.9, method="inverted_cdf")
    expected = ((upper * scale).clip(0, 1) - (lower / scale).clip(0, 1)).mean()
    found = row(table, "ancestral", 50, 12)
    assert found["interval_size"] == pytest.approx(expected, rel=1e-6)
    scores = [
        crps(variants[:, inside] / 255, truth[inside]).mean()
        for variants, inside, truth in zip(pool, mask, target, strict=True)
    ]
    assert found["crps"] == pytest.approx(np.mean(scores))
    assert (found["size_ratio"], found["crps_ratio"], found["ci_low"], found["ci_high"]) == (1, 1, 1, 1)


def test_every_amount_is_measured_with_its_cost(study: tuple[Path, pd.DataFrame]) -> None:
    _, table = study
    fixed = table[table["precision"].isna()]
    amounts = fixed.groupby(["solver", "n_steps"])["n_variants"].apply(list).to_dict()
    assert amounts == {("ancestral", 50): [6, 12], ("dpmpp_2m_sde", 3): [6, 12], ("dpmpp_2m_sde", 4): [6, 12, 24]}
    one = row(table, "dpmpp_2m_sde", 4, 6)
    assert (one["forward_passes_per_image"], one["seconds_per_image"]) == (24, 0.5)
    assert (table["ci_low"] <= table["ci_high"]).all()
    inside = (fixed["ci_low"] <= fixed["size_ratio"]) & (fixed["size_ratio"] <= fixed["ci_high"])
    assert inside.all()


def test_early_stops_need_fewer_variants_for_less_precision(study: tuple[Path, pd.DataFrame]) -> None:
    _, table = study
    early = table[table["precision"].notna()].set_index("precision")
    assert list(early.index) == [0.001, 0.04, 1.0]
    assert early["n_variants"].tolist() == sorted(early["n_variants"], reverse=True)
    assert (early["n_variants"].loc[0.001], early["n_variants"].loc[1.0]) == (24, 4)
    np.testing.assert_allclose(early["forward_passes_per_image"], 4 * early["n_variants"])


def test_the_cheapest_setting_that_is_good_enough_on_every_task_is_chosen() -> None:
    columns = [
        "task",
        "solver",
        "n_steps",
        "n_variants",
        "precision",
        "forward_passes_per_image",
        "size_ratio",
        "crps_ratio",
    ]
    rows = [
        ("a", "s", 4, 12, np.nan, 48, 1.005, 1.0), ("b", "s", 4, 12, np.nan, 48, 1.02, 1.0),  # too wide on one
        ("a", "s", 8, 12, np.nan, 96, 1.005, 1.0), ("b", "s", 8, 12, np.nan, 96, 1.0, 1.009),
        ("a", "s", 6, 12, np.nan, 72, 1.0, 1.0), ("b", "s", 6, 12, np.nan, 72, 1.0, 1.02),  # too bad a score
        ("a", "s", 8, 5, 0.1, 40, 1.0, 1.0), ("b", "s", 8, 5, 0.1, 40, 1.0, 1.0),  # early stops are not settings
        ("a", "r", 50, 12, np.nan, 600, 1.0, 1.0), ("b", "r", 50, 12, np.nan, 600, 1.0, 1.0),
    ]  # fmt: skip
    chosen = choose_solver(pd.DataFrame(rows, columns=columns), 0.01)
    assert chosen == {"solver": "s", "n_steps": 8, "n_variants": 12}


def test_figure_shows_further_solvers(study: tuple[Path, pd.DataFrame]) -> None:
    table = study[1].replace({"solver": {"dpmpp_2m_sde": "heun"}})
    axes = Figure().subplots()
    _draw(axes, table, choose_solver(table, 0.01), SETTINGS.reference.model_dump())
    assert "heun, J = 12" in axes.get_legend_handles_labels()[1]


def test_table_figure_and_overlay(study: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    _, table = study
    choice = choose_solver(table, 0.01)
    write_table(table, tmp_path / "solvers.csv")
    text = (tmp_path / "solvers.md").read_text()
    assert "Size / reference" in text
    assert "ancestral" in text
    plot_solvers(table, choice, SETTINGS.reference.model_dump(), tmp_path / "solvers.png", tolerance=0.01)
    assert (tmp_path / "solvers.pdf").stat().st_size > 5000
    write_choice(choice, tmp_path / "chosen.yaml")
    assert yaml.safe_load((tmp_path / "chosen.yaml").read_text()) == {"sampling": choice}
