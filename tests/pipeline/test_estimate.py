"""The estimate counts what the stages do, and times the code that they run."""

import time
from typing import Any

import numpy as np
import pytest
import torch

from conffusion.config.schema import Config
from conffusion.pipeline.estimate import Estimate, StageCost, estimate_text
from conffusion.sampling import ChainSampler, Solver, draw_variants
from conffusion.tasks import DegradedImages, build_task
from tests.pipeline.configs import TASK, config

TINY: dict[str, Any] = {
    "methods": ["dm_sb", "n_conffusion", "resnext"],
    "dataset": {"splits": {"finetune": 30, "selection": 25, "calibration": 25, "test": 20}},
    "sampling": {"n_variants": 4, "n_steps": 3, "images_per_shard": 10, "batch_size": 20},
    "finetuning": {"batch_size": 4, "validate_every": 5, "tuned": {TASK: {"n_conffusion": {"n_steps": 10}}}},
    "precision": "float32",
}


@pytest.fixture(scope="module")
def tiny() -> Config:
    torch.set_num_threads(1)
    whole = config(**TINY)
    return whole.model_copy(update={"tasks": {TASK: whole.tasks[TASK]}})


@pytest.fixture(scope="module")
def costs(tiny: Config) -> dict[tuple[str, str], StageCost]:
    return {(cost.stage, cost.method): cost for cost in Estimate(tiny).costs()}


def test_passes_and_jobs_are_counted(costs: dict[tuple[str, str], StageCost]) -> None:
    sampling = costs["sample_variants", "dm_sb"]
    assert (sampling.jobs, sampling.forward_passes) == (3 + 3 + 3 + 2, 100 * 4 * 3)
    finetuning = costs["finetune_method", "n_conffusion"]
    assert finetuning.forward_passes == 10 * 4 + 2 * (25 + 25)
    assert costs["predict_bounds", "n_conffusion"].forward_passes == 2 * (25 + 25 + 20)
    assert costs["trace_candidates", "n_conffusion"].forward_passes == 2 * (25 + 20)
    assert ("finetune_method", "dm_sb") not in costs


def test_steps_and_candidates_of_the_sharpening_are_counted(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Estimate, "_remembered", lambda *_: 1.0)
    sharpening = tiny.finetuning.sharpening.model_copy(update={"n_steps": 7})
    finetuning = tiny.finetuning.model_copy(update={"sharpening": sharpening})
    estimate = Estimate(tiny.model_copy(update={"finetuning": finetuning}))
    before, after = (some._finetuning(TASK, "n_conffusion") for some in (Estimate(tiny), estimate))
    assert after.forward_passes == (10 + 7) * 4 + (2 + 2) * (25 + 25)  # checkpoints after 5, 10, 15 and 17 steps
    assert after.hours - before.hours == pytest.approx((7 * 4 + 2 * (25 + 25)) / 3600)
    assert after.disk_gib == pytest.approx(2 * before.disk_gib)
    assert estimate._tracing(TASK, "n_conffusion").forward_passes == 4 * (25 + 20)


def test_sizes_follow_from_shapes(costs: dict[tuple[str, str], StageCost]) -> None:
    assert costs["sample_variants", "dm_sb"].disk_gib == pytest.approx(100 * 4 * 3 * 32 * 32 / 2**30)
    assert costs["prepare_images", "all"].disk_gib == pytest.approx(100 * 3 * 32 * 32 * 9 / 2**30)
    weights_gib = 1.0e6 * 4 / 2**30
    assert 4 * weights_gib < costs["finetune_method", "n_conffusion"].memory_gib < 0.2


def test_hours_are_positive_and_add_up(costs: dict[tuple[str, str], StageCost], tiny: Config) -> None:
    for cost in costs.values():
        assert 0 < cost.longest_job_hours <= cost.hours < 1
    text = estimate_text(tiny)
    assert "in all: 21 jobs" in text and "sample_variants" in text


def test_priors_that_the_run_trains_are_part_of_it(tiny: Config) -> None:
    training = {"n_steps": 7, "batch_size": 4}
    names = ("sr3_faces", "resnext_photos")
    priors = {
        name: tiny.priors[name].model_copy(update={"training": tiny.priors[name].training.model_copy(update=training)})  # type: ignore[union-attr]
        for name in names
    }
    own = tiny.model_copy(update={"priors_dir": None, "priors": {**tiny.priors, **priors}})
    costs = [cost for cost in Estimate(own).costs() if cost.stage == "train_prior"]
    assert sorted(cost.method for cost in costs) == sorted(names)
    assert all(cost.forward_passes == 28 and cost.hours > 0 for cost in costs)


@pytest.mark.system
def test_shard_of_variants_takes_as_long_as_estimated() -> None:
    """Within a quarter, on an otherwise idle machine."""
    whole = config(sampling={"n_variants": 20, "n_steps": 8, "images_per_shard": 50})
    estimate = Estimate(whole)
    expected = 50 * 20 * 8 * estimate._seconds_per_sampling_pass(TASK, estimate._architecture("sr3_faces"))
    architecture = estimate._architecture("sr3_faces")
    network, schedule = estimate.device.place(architecture.build_prior()), architecture.build_schedule()
    assert schedule is not None
    images = np.random.default_rng(0).random((50, 3, 32, 32), dtype=np.float32)
    ids = tuple(f"image-{k}" for k in range(50))
    inputs = DegradedImages(build_task(TASK), 1, ids, images, np.ones(images.shape, np.uint8))
    sampling = whole.sampling
    solver = Solver(sampling.solver, sampling.n_steps)
    sampler = ChainSampler(network, schedule, inputs, solver, sampling.dtype, estimate.device)
    start = time.perf_counter()
    for _ in draw_variants(sampler, inputs, sampling.n_variants, sampling.batch_size or 64):
        pass
    assert time.perf_counter() - start == pytest.approx(expected, rel=0.25)
