"""From portraits to metrics: every stage's files hold what the contract says, and repeat to the last bit."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from conffusion.bounds import sampled_bounds
from conffusion.calibration.record import read_calibration
from conffusion.calibration.risk_bounds import BOUNDS
from conffusion.config.schema import SharpeningSettings, ValiditySettings
from conffusion.evaluation.validity import LossCurves
from conffusion.methods.models import load_predictor
from conffusion.metrics import image_losses
from conffusion.pipeline.settings import ValidityStage
from conffusion.pipeline.stages.fitting import candidate_steps
from conffusion.pipeline.stages.images import split_images
from conffusion.pipeline.stages.validity import ValidityFiles, assess_method_validity
from conffusion.store import open_store, read_array
from conffusion.tasks import build_task
from tests.methods.small_specs import SIDE
from tests.pipeline.stages.small_run import (
    CALIBRATION,
    DEGRADATION,
    FINETUNING,
    PROTOCOLS,
    SAMPLING,
    SEED,
    SIZES,
    TUNED,
    SmallRun,
)

METHODS = ("dm_sb", "n_conffusion")
CHOOSING = CALIBRATION.model_copy(update={"families": ["additive", "interval", "learned"]})


def array(manifest: Path, name: str) -> Any:
    return read_array(open_store(manifest)[name])


# ---- splits and images


def test_splits_hold_every_image_once(finished: SmallRun) -> None:
    table = pd.read_csv(finished.splits)
    assert list(table.columns) == ["image_id", "group", "source", "split"]
    assert table["image_id"].is_unique
    assert table["split"].value_counts().to_dict() == SIZES


def test_images_fit_their_task(finished: SmallRun) -> None:
    task = build_task(finished.task, **DEGRADATION[finished.task])
    table = pd.read_csv(finished.splits)
    for split, size in SIZES.items():
        store = open_store(finished.images(split))
        assert set(store.image_ids) == set(table.loc[table["split"] == split, "image_id"])
        target, condition, mask = (read_array(store[name]) for name in ("target", "condition", "mask"))
        assert target.shape == condition.shape == mask.shape == (size, 3, SIDE, SIDE)
        assert target.dtype == condition.dtype == np.float32
        assert target.min() >= 0 and target.max() <= 1
        assert target.std() > 0.1
        expected, expected_mask = task.apply(target, store.image_ids, SEED)
        np.testing.assert_array_equal(condition, expected)
        np.testing.assert_array_equal(mask, expected_mask)
        assert store.attributes["task"] == finished.task


def test_rows_stand_in_a_random_order_that_depends_on_the_seed(finished: SmallRun, tmp_path: Path) -> None:
    ids = list(open_store(finished.images("calibration")).image_ids)
    assert ids != sorted(ids)
    other = SmallRun(tmp_path, finished.task)
    split_images(other.split_stage(), other.splits)
    assert other.splits.read_bytes() == finished.splits.read_bytes()
    split_images(other.split_stage(seed=SEED + 1), other.splits)
    assert other.splits.read_bytes() != finished.splits.read_bytes()


# ---- variants and their bounds


def test_shards_hold_the_variants_of_their_rows(finished: SmallRun) -> None:
    ids: tuple[str, ...] = ()
    for k in range(3):
        store = open_store(finished.shard("calibration", k))
        variants = read_array(store["variants"])
        assert variants.shape == (8, SAMPLING.n_variants, 3, SIDE, SIDE)
        assert variants.dtype == np.uint8
        assert (variants[:, 0] != variants[:, 1]).mean() > 0.1
        assert store.attributes["forward_passes_per_image"] == SAMPLING.n_steps * SAMPLING.n_variants
        assert store.attributes["seconds_per_image"] > 0
        assert store.attributes["seed"] == SEED
        assert store.attributes["schedule"]["name"] == "cosine"
        ids += store.image_ids
    assert ids == open_store(finished.images("calibration")).image_ids


def test_variants_do_not_depend_on_shards(copied: SmallRun) -> None:
    together = np.concatenate([array(copied.shard("calibration", k), "variants") for k in range(3)])
    copied.sample("calibration", 0, 1, SAMPLING.model_copy(update={"batch_size": 96, "images_per_shard": 24}))
    alone = array(copied.shard("calibration", 0), "variants")
    assert np.abs(alone.astype(int) - together).max() <= 1  # rounding of other batches


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sampled_bounds_are_the_quantiles_of_the_variants(finished: SmallRun, protocol: str) -> None:
    variants = np.concatenate([array(finished.shard("test", k), "variants") for k in range(2)]).astype(np.float32) / 255
    store = open_store(finished.bounds("dm_sb", protocol, "test"))
    assert store.image_ids == open_store(finished.images("test")).image_ids
    for row in range(SIZES["test"]):
        lower, upper = sampled_bounds(variants[row], CALIBRATION.alpha / 2, 1 - CALIBRATION.alpha / 2)
        np.testing.assert_allclose(read_array(store["lower"])[row], lower, atol=1e-6)
        np.testing.assert_allclose(read_array(store["upper"])[row], upper, atol=1e-6)
    assert store.attributes["n_variants"] == SAMPLING.n_variants
    assert store.attributes["n_crossed"] == 0


# ---- fine-tuned bounds


def test_every_candidate_is_kept_and_each_protocol_has_its_best(finished: SmallRun) -> None:
    names = sorted(path.name for path in finished.candidates.iterdir())
    assert names == ["step-0000002.safetensors", "step-0000004.safetensors"]
    curve = pd.read_csv(finished.candidates.parent / "training.csv")
    assert set(curve["step"]) == {2, 4}
    for protocol in PROTOCOLS:
        scores = curve[curve["protocol"] == protocol].set_index("step")["interval_size"]
        predictor, record = load_predictor(finished.model(protocol))
        assert record["step"] == scores.idxmin() or scores.isin([math.inf]).all()
        assert (record["method"], record["task"]) == ("n_conffusion", finished.task)
        winner = finished.candidates / f"step-{record['step']:07d}.safetensors"
        assert finished.model(protocol).read_bytes() == winner.read_bytes()
        assert not predictor.training


def test_fine_tuning_repeats_to_the_last_bit_and_replicates_differ(copied: SmallRun) -> None:
    before = {path.name: load_predictor(path)[0].state_dict() for path in copied.candidates.iterdir()}
    copied.finetune()
    for name, weights in before.items():
        again = load_predictor(copied.candidates / name)[0].state_dict()
        assert all(torch.equal(value, again[key]) for key, value in weights.items())
    copied.finetune(copied.finetuning_job(replicate=1))
    for name, weights in before.items():
        other = load_predictor(copied.candidates / name)[0].state_dict()
        assert any(not torch.equal(value, other[key]) for key, value in weights.items())


def sharpened(run: SmallRun, n_steps: int, method: str = "n_conffusion", factor: float = 0.3) -> dict[str, Any]:
    """Weights of all candidates, by file name, after a run that ends with so many steps of sharpening."""
    sharpening = SharpeningSettings(n_steps=n_steps, learning_rate_factor=factor)
    finetuning = FINETUNING.model_copy(update={"sharpening": sharpening})
    sampled = run.bounds("dm_sb", "guaranteed", "finetune") if method == "dm_sba" else None
    run.finetune(run.finetuning_job(method, finetuning=finetuning), sampled)
    return {path.name: load_predictor(path)[0].state_dict() for path in run.candidates.iterdir()}


def same(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, others[key]) for key, value in weights.items())


@pytest.mark.parametrize("method", ["n_conffusion", "dm_sba"])
def test_sharpening_adds_candidates_and_leaves_the_earlier_ones(copied: SmallRun, method: str) -> None:
    without = sharpened(copied, 0, method, factor=9.0)
    assert sorted(without) == ["step-0000002.safetensors", "step-0000004.safetensors"]
    losses = pd.read_csv(copied.candidates.parent / "training.csv")["loss"].dropna().tolist()
    added = sharpened(copied, 3, method)
    names = [f"step-{step:07d}.safetensors" for step in (2, 4, 6, 7)]
    assert sorted(added) == names
    assert all(same(weights, added[name]) for name, weights in without.items())
    assert not same(added[names[1]], added[names[2]]) and not same(added[names[2]], added[names[3]])
    curve = pd.read_csv(copied.candidates.parent / "training.csv")
    assert curve["loss"].dropna().tolist()[:2] == losses
    for protocol in PROTOCOLS:
        scores = curve[curve["protocol"] == protocol].set_index("step")["interval_size"]
        assert scores.index.tolist() == [2, 4, 6, 7]
        assert load_predictor(copied.model(protocol))[1]["step"] == scores.idxmin() or scores.isin([math.inf]).all()
    assert curve.loc[curve["loss"].notna(), "step"].tolist() == [2, 4, 6, 7]
    assert all(same(weights, sharpened(copied, 3, method)[name]) for name, weights in added.items())
    factor = sharpened(copied, 3, method, factor=3.0)
    assert same(factor[names[1]], added[names[1]]) and not same(factor[names[3]], added[names[3]])


@pytest.mark.parametrize(("n_steps", "expected"), [(0, [2, 4]), (1, [2, 4, 5]), (2, [2, 4, 6]), (5, [2, 4, 6, 8, 9])])
def test_steps_of_candidates(n_steps: int, expected: list[int]) -> None:
    sharpening = SharpeningSettings(n_steps=n_steps, learning_rate_factor=0.3)
    assert candidate_steps(TUNED, FINETUNING.model_copy(update={"sharpening": sharpening})) == expected


def test_dm_sba_learns_the_sampled_bounds(copied: SmallRun) -> None:
    sampled = copied.bounds("dm_sb", "guaranteed", "finetune")
    tuned = copied.finetuning_job().tuned.model_copy(update={"n_steps": 40, "learning_rate": 3e-3})
    copied.finetune(copied.finetuning_job("dm_sba", tuned=tuned), sampled)
    losses = pd.read_csv(copied.candidates.parent / "training.csv")["loss"].dropna().to_numpy()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_predicted_bounds_have_the_contract_form(finished: SmallRun, protocol: str) -> None:
    for split in ("selection", "calibration", "test"):
        store = open_store(finished.bounds("n_conffusion", protocol, split))
        lower, upper = read_array(store["lower"]), read_array(store["upper"])
        assert store.image_ids == open_store(finished.images(split)).image_ids
        assert lower.shape == upper.shape == (SIZES[split], 3, SIDE, SIDE)
        assert lower.dtype == upper.dtype == np.float32
        assert min(lower.min(), upper.min()) >= 0 and max(lower.max(), upper.max()) <= 1
        assert store.attributes["forward_passes_per_image"] == 1
        crossed = int((lower > upper).sum())
        if protocol == "guaranteed":
            assert crossed == 0  # sorted, but counted
        else:
            assert store.attributes["n_crossed"] == crossed


def test_known_pixels_have_no_interval(finished: SmallRun) -> None:
    store = open_store(finished.bounds("n_conffusion", "guaranteed", "test"))
    known = array(finished.images("test"), "mask") == 0
    assert known.any() == (finished.task == "inpainting")
    target = array(finished.images("test"), "target")
    for name in ("lower", "upper"):
        np.testing.assert_allclose(read_array(store[name])[known], target[known], atol=1e-6)


# ---- calibration and metrics


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", METHODS)
def test_calibration_has_the_contract_keys_and_holds(finished: SmallRun, method: str, protocol: str) -> None:
    record = json.loads((finished.method_run(method, protocol) / "calibration.json").read_text())
    choice = {"chosen_on", "chosen_among", "expected_risk"} if protocol == "guaranteed" else set()
    assert set(record) == choice | {
        "lambda_hat", "risk", "risk_ucb", "n_images", "n_bound", "unit", "ucb", "scaling", "alpha", "delta", "split",
        "selected_on", "checkpoint_step", "feasible",
    }  # fmt: skip
    mask = array(finished.images("calibration"), "mask")
    expected = {
        "paper": ("pixel", "official", int(mask.sum()), "calibration"),
        "guaranteed": ("image", "wsr", 24, "selection"),
    }
    assert (record["unit"], record["ucb"], record["n_bound"], record["selected_on"]) == expected[protocol]
    assert record["n_images"] == SIZES["calibration"]
    assert record["risk"] <= record["risk_ucb"] <= record["alpha"] == CALIBRATION.alpha
    assert (record["checkpoint_step"] is None) == (method == "dm_sb")
    lower, upper = (array(finished.bounds(method, protocol, "calibration"), name) for name in ("lower", "upper"))
    target = array(finished.images("calibration"), "target")
    inside = (lower / record["lambda_hat"] <= target) & (target <= np.minimum(upper * record["lambda_hat"], 1))
    assert 1 - inside[mask > 0].mean() == pytest.approx(record["risk"], abs=0.01)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", METHODS)
def test_metrics_are_those_of_the_calibrated_test_intervals(finished: SmallRun, method: str, protocol: str) -> None:
    method_run = finished.method_run(method, protocol)
    metrics = json.loads((method_run / "metrics.json").read_text())
    scale = json.loads((method_run / "calibration.json").read_text())["lambda_hat"]
    lower, upper = (array(finished.bounds(method, protocol, "test"), name) for name in ("lower", "upper"))
    lower, upper = np.clip(lower / scale, 0, 1), np.clip(upper * scale, 0, 1)
    target, mask = (array(finished.images("test"), name) for name in ("target", "mask"))
    missed, size = (target < lower) | (target > upper), upper - lower
    assert metrics["risk"] == pytest.approx(float(missed[mask > 0].mean()), abs=0.005)  # rounding at the ends
    assert metrics["interval_size_mean"] == pytest.approx(float(size[mask > 0].mean()), rel=1e-4)
    assert (metrics["task"], metrics["method"], metrics["protocol"]) == (finished.task, method, protocol)
    assert metrics["n_test"] == SIZES["test"]
    assert metrics["n_variants"] == (SAMPLING.n_variants if method == "dm_sb" else None)
    assert metrics["forward_passes_per_image"] == (12 if method == "dm_sb" else 1)
    assert metrics["official_unit"] == ("image" if finished.task == "inpainting" else "image_channel")
    per_image = pd.read_csv(method_run / "per_image.csv")
    assert list(per_image["image_id"]) == list(open_store(finished.images("test")).image_ids)
    assert per_image["risk"].mean() == pytest.approx(metrics["risk"], abs=1e-3)
    assert per_image["interval_size"].mean() == pytest.approx(metrics["interval_size_mean"], rel=1e-3)
    pixels = per_image[[f"pixels_{k}" for k in range(1, 5)]].to_numpy()
    assert pixels.sum() <= mask.sum()
    with np.load(method_run / "positions.npz") as positions:
        risk, n_pixels = positions["risk"], positions["n_pixels"]
    assert risk.shape == (16, 16) and n_pixels.sum() == mask.sum() * 3 // mask.shape[1]
    assert np.nansum(risk * n_pixels) / n_pixels.sum() == pytest.approx(metrics["risk"], abs=1e-9)
    curve = pd.read_csv(method_run / "curve.csv")
    assert curve["lambda"].is_monotonic_increasing
    assert curve["calibration_risk"].is_monotonic_decreasing
    assert curve["test_size"].is_monotonic_increasing


def test_validity_has_a_row_for_each_protocol_and_one_for_reselection(finished: SmallRun, tmp_path: Path) -> None:
    run = SmallRun(tmp_path, finished.task)
    curves = finished.trace()
    assert sorted(path.name for path in curves.iterdir()) == ["step-0000002.npz", "step-0000004.npz"]
    pool = LossCurves.load(finished.method_run("n_conffusion", "paper") / "pool.npz")
    traced = LossCurves.load(curves / f"step-{load_predictor(finished.model('paper'))[1]['step']:07d}.npz")
    np.testing.assert_allclose(traced.losses, pool.losses, atol=1e-3)
    output = run.root / "validity.csv"
    for method, candidates in (("n_conffusion", curves), ("dm_sb", None)):
        files = ValidityFiles(
            {p: finished.method_run(method, p) / "calibration.json" for p in PROTOCOLS},
            {p: finished.method_run(method, p) / "pool.npz" for p in PROTOCOLS}, candidates, [], finished.splits,
            output,
        )  # fmt: skip
        drawn = ValiditySettings(calibration_sizes=[10, 24], n_draws=50)
        assess_method_validity(finished.task, method, ValidityStage(CALIBRATION, drawn, SEED), files)
        table = pd.read_csv(output)
        rows = [(row.protocol, "reselected" in row.bound, row.n) for row in table.itertuples()]
        expected = [("paper", False, 10), ("paper", False, 24), ("guaranteed", False, 10), ("guaranteed", False, 24)]
        assert rows == expected + ([("paper", True, 10), ("paper", True, 24)] if candidates else [])
        assert (table["n_draws"] == 50).all()
        assert table[["violation_rate", "infeasible_rate"]].stack().between(0, 1).all()
        assert list(table.columns) == [
            "task", "method", "protocol", "bound", "family", "n", "n_draws", "violation_rate", "standard_error",
            "infeasible_rate", "interval_size_mean",
        ]  # fmt: skip


def test_every_bound_and_family_is_compared_on_the_guaranteed_bounds(copied: SmallRun, tmp_path: Path) -> None:
    copied.calibrate("dm_sb", "guaranteed", CHOOSING)
    copied.evaluate("dm_sb", "guaranteed")
    files = ValidityFiles(
        {p: copied.method_run("dm_sb", p) / "calibration.json" for p in PROTOCOLS},
        {p: copied.method_run("dm_sb", p) / "pool.npz" for p in PROTOCOLS}, None,
        [(copied.bounds("dm_sb", "guaranteed", split), copied.images(split)) for split in ("calibration", "test")],
        copied.splits, tmp_path / "validity.csv",
    )  # fmt: skip
    drawn = ValiditySettings(calibration_sizes=[24], n_draws=50)
    assess_method_validity(copied.task, "dm_sb", ValidityStage(CALIBRATION, drawn, SEED), files)
    table = pd.read_csv(files.output)
    rows = table[table["protocol"] == "comparison"]
    chosen = json.loads(files.calibrations["guaranteed"].read_text())["scaling"]
    families = {"multiplicative", "additive", "interval", chosen}
    assert set(zip(rows["family"], rows["bound"].str.partition(",")[0], strict=True)) == {
        (family, bound) for family in families for bound in BOUNDS
    }
    own = table[table["protocol"] == "guaranteed"].iloc[0]
    same = rows[(rows["family"] == chosen) & (rows["bound"] == own["bound"])].iloc[0]
    assert same["violation_rate"] == own["violation_rate"]


# ---- the set family


def test_family_is_chosen_on_selection_and_read_back_with_the_calibration(copied: SmallRun) -> None:
    copied.calibrate("n_conffusion", "guaranteed", CHOOSING)
    folder = copied.method_run("n_conffusion", "guaranteed")
    record = json.loads((folder / "calibration.json").read_text())
    assert set(record["chosen_among"]) == set(CHOOSING.families)
    assert record["scaling"] == min(record["chosen_among"], key=record["chosen_among"].get)
    assert 0 < record["expected_risk"] < CALIBRATION.alpha
    assert json.loads((folder / "family.json").read_text())["name"] == record["scaling"]
    calibration = read_calibration(folder / "calibration.json")
    store, images = (open_store(path) for path in (
        copied.bounds("n_conffusion", "guaranteed", "calibration"), copied.images("calibration")))  # fmt: skip
    lower, upper = calibration.apply(store["lower"][:], store["upper"][:])
    risk, _ = image_losses(lower, upper, images["target"][:], images["mask"][:])
    assert risk.mean() == pytest.approx(record["risk"], abs=1e-12)
    assert not (copied.method_run("n_conffusion", "paper") / "family.json").exists()
