"""The search over fine-tuning settings, on the selection split alone, with the same trials for every method."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from conffusion.config.schema import MethodTuning, TuningSettings
from conffusion.core.device import Device
from conffusion.core.randomness import keyed_generator
from conffusion.errors import ConfigError
from conffusion.pipeline.stages.fitting import PATIENT_PROTOCOL, FinetuningInputs, FinetuningJob, FinetuningRun
from conffusion.store import atomic_path, read_json, write_json, write_text
from conffusion.training.priors import architecture_of
from conffusion.training.state import StateFolder

CRITERION = PATIENT_PROTOCOL  # it selects on the selection split


def trial_settings(tuning: TuningSettings, kind: str, seed: int, trial: int) -> MethodTuning:
    """Settings of one trial for a kind of network ("sr3", "palette", "adm" or "encoder"), the same for every task.

    Each value list is shuffled and dealt out in turn (as in Latin hypercube sampling), so that few trials still visit
    many values; no combination repeats before all have been tried.

    Raises:
        ConfigError: If the search has no prediction times for this kind.
    """
    if kind not in tuning.prediction_time:
        raise ConfigError(f"tuning.prediction_time.{kind}: is missing; list values in [0, 1) for this kind of network")

    lists: dict[str, Sequence[Any]] = {
        "learning_rate": tuning.learning_rate,
        "prediction_time": tuning.prediction_time[kind],
        "n_steps": tuning.n_steps,
    }
    chosen: dict[str, Any] = {}
    size = 1
    for name, values in lists.items():
        together = math.lcm(size, len(values))  # after so many trials this list and those before come round together
        size *= len(values)
        place = trial % size + trial % size // together
        chosen[name] = values[keyed_generator("tuning", seed, name).permutation(len(values))[place % len(values)]]
    return MethodTuning(**chosen)


def try_settings(
    job: FinetuningJob, inputs: FinetuningInputs, output: str | Path, states: StateFolder, device: Device
) -> None:
    """Fine-tune with the job's settings and record the narrowest calibrated intervals on the selection split."""
    run = FinetuningRun(job, inputs, device)
    run.run(lambda step: {CRITERION: run.score(CRITERION, step)}, states)
    size = run.competition.best(CRITERION)[0].interval_size
    write_json(output, {
        "task": run.task, "method": job.method.name, **job.tuned.model_dump(),
        "interval_size": size if size < float("inf") else None,
    })  # fmt: skip
    states.clear()


def choose_settings(trials: Sequence[str | Path], table: str | Path, chosen: str | Path) -> None:
    """Write all trials as a table (CSV), and the best of each task and method as a configuration overlay (YAML)."""
    rows = pd.DataFrame([read_json(trial) for trial in trials]).sort_values(["task", "method", "interval_size"])
    with atomic_path(table) as temporary:
        rows.to_csv(temporary, index=False)
    tuned: dict[str, dict[str, Any]] = {}
    for (task, method), group in rows.groupby(["task", "method"], sort=False):
        best = group.iloc[0][list(MethodTuning.model_fields)].to_dict()
        tuned.setdefault(str(task), {})[str(method)] = MethodTuning(**best).model_dump()
    write_text(chosen, yaml.safe_dump({"finetuning": {"tuned": tuned}}, sort_keys=False))


def with_trial(job: FinetuningJob, tuning: TuningSettings, trial: int) -> FinetuningJob:
    """The job with the settings of one trial."""
    return replace(job, tuned=trial_settings(tuning, architecture_of(job.prior).kind, job.seed, trial))
