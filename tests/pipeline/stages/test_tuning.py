"""The search over settings: the same trials for every method, each recorded, the narrowest chosen."""

import json
from pathlib import Path

import pandas as pd
import pytest

from conffusion.config import load_config
from conffusion.config.schema import TuningSettings
from conffusion.errors import ConfigError
from conffusion.pipeline.stages.tuning import choose_settings, try_settings
from conffusion.pipeline.trials import trial_settings
from conffusion.store import write_json
from tests.pipeline.stages.small_run import CPU, SEED, SmallRun

ROOT = Path(__file__).parents[3]
TIMES = {"sr3": [0.1, 0.4], "encoder": [0.0]}
TUNING = TuningSettings(learning_rate=[1e-3, 2e-3, 4e-3], prediction_time=TIMES, n_steps=[3], n_trials=6)


def test_trials_visit_every_value_and_depend_on_the_seed() -> None:
    trials = [trial_settings(TUNING, "sr3", 5, k) for k in range(6)]
    assert trials == [trial_settings(TUNING, "sr3", 5, k) for k in range(6)]
    assert {trial.learning_rate for trial in trials[:3]} == set(TUNING.learning_rate)
    assert {trial.prediction_time for trial in trials[:2]} == {0.1, 0.4}
    assert {trial_settings(TUNING, "encoder", 5, k).prediction_time for k in range(6)} == {0.0}
    orders = {tuple(trial_settings(TUNING, "sr3", seed, k).learning_rate for k in range(3)) for seed in range(20)}
    assert len(orders) == 6


def test_kind_without_prediction_times_is_named() -> None:
    with pytest.raises(ConfigError, match=r"tuning.prediction_time.adm: is missing"):
        trial_settings(TUNING, "adm", 5, 0)


@pytest.mark.parametrize("kind", ["sr3", "palette", "adm", "encoder"])
def test_default_trials_differ(kind: str) -> None:
    config = load_config(ROOT / "config.yaml")
    tuning = config.tuning
    n_settings = len(tuning.learning_rate) * len(tuning.prediction_time[kind]) * len(tuning.n_steps)
    trials = {trial_settings(tuning, kind, config.seed, k) for k in range(tuning.n_trials)}
    assert len(trials) == min(tuning.n_trials, n_settings)


@pytest.mark.parametrize(("n_rates", "n_times"), [(2, 2), (3, 3), (2, 4)])
def test_trials_do_not_repeat_before_the_grid_is_used_up(n_rates: int, n_times: int) -> None:
    rates, times = [1e-4 * (k + 1) for k in range(n_rates)], [0.1 * k for k in range(n_times)]
    n_trials = n_rates * n_times
    tuning = TuningSettings(learning_rate=rates, prediction_time={"sr3": times}, n_steps=[3], n_trials=n_trials)
    assert len({trial_settings(tuning, "sr3", 5, k) for k in range(n_trials)}) == n_trials


def test_trial_is_recorded_with_its_settings_and_repeats(copied: SmallRun, tmp_path: Path) -> None:
    job = copied.finetuning_job(tuned=trial_settings(TUNING, "sr3", SEED, 4))
    sizes = []
    for name in ("a.json", "b.json"):
        try_settings(job, copied.finetuning_inputs(), tmp_path / name, copied.states(), CPU)
        record = json.loads((tmp_path / name).read_text())
        assert (record["task"], record["method"]) == (copied.task, "n_conffusion")
        assert {key: record[key] for key in job.tuned.model_dump()} == job.tuned.model_dump()
        sizes.append(record["interval_size"])
    assert sizes[0] == sizes[1]
    assert 0 < sizes[0] <= 1


def test_narrowest_trial_of_each_method_becomes_an_overlay(tmp_path: Path) -> None:
    sizes = {("inpainting", "resnext"): [0.5, None, 0.3], ("super_resolution", "dm_sba"): [0.2, 0.4, 0.9]}
    trials = []
    for (task, method), row in sizes.items():
        for k, size in enumerate(row):
            path = tmp_path / f"{task}-{k}.json"
            trial = {"learning_rate": 1e-3 * (k + 1), "prediction_time": 0.1 * k, "n_steps": 100 + k}
            write_json(path, {"task": task, "method": method, **trial, "interval_size": size})
            trials.append(path)
    table, chosen = tmp_path / "tuning.csv", tmp_path / "tuned.yaml"
    choose_settings(trials, table, chosen)
    tuned = load_config(ROOT / "config.yaml", chosen).finetuning.tuned
    assert (tuned["inpainting"]["resnext"].n_steps, tuned["super_resolution"]["dm_sba"].n_steps) == (102, 100)
    assert tuned["inpainting"]["resnext"].learning_rate == pytest.approx(3e-3)
    assert len(pd.read_csv(table)) == 6
