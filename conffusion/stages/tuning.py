"""The search over fine-tuning settings, on the selection split alone, with the same trials for every method."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from conffusion.compute import Compute
from conffusion.config.schema import MethodTuning, TuningSettings
from conffusion.methods.competition import Score
from conffusion.randomness import keyed_generator
from conffusion.stages.fitting import FinetuningInputs, FinetuningJob, Fit
from conffusion.store import atomic_path, read_json, write_json, write_text

CRITERION = "guaranteed"  # the protocol that selects on the selection split


def trial_settings(tuning: TuningSettings, seed: int, trial: int) -> MethodTuning:
    """Settings of one trial, the same for every task and method.

    Each value list is shuffled and dealt out in turn (as in Latin hypercube sampling), so that few trials still visit
    every value.
    """

    def dealt(name: str) -> Any:
        values = getattr(tuning, name)
        return values[keyed_generator("tuning", seed, name).permutation(len(values))[trial % len(values)]]

    return MethodTuning(**{name: dealt(name) for name in MethodTuning.model_fields})


def try_settings(job: FinetuningJob, inputs: FinetuningInputs, output: str | Path, compute: Compute) -> None:
    """Fine-tune with the job's settings and record the narrowest calibrated intervals on the selection split."""
    fit = Fit(job, inputs, compute)
    best: list[Score] = []

    def validate(step: int) -> None:
        score = fit.score(CRITERION)
        if score.beats(best[-1] if best else None):
            best.append(score)

    fit.run(validate)
    size = best[-1].interval_size
    write_json(output, {
        "task": fit.task, "method": job.method.name, **job.tuned.model_dump(),
        "interval_size": size if size < float("inf") else None,
    })  # fmt: skip


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
    return replace(job, tuned=trial_settings(tuning, job.seed, trial))
