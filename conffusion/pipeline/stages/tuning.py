"""The search over fine-tuning settings, on the selection split alone, with the same trials for every method."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from conffusion.config.schema import MethodTuning
from conffusion.core.device import Device
from conffusion.pipeline.settings import FinetuningStage
from conffusion.pipeline.stages.fitting import PATIENT_PROTOCOL, FinetuningInputs, FinetuningRun
from conffusion.store import atomic_path, read_json, write_json, write_text
from conffusion.training.state import StateFolder

CRITERION = PATIENT_PROTOCOL  # it selects on the selection split


def try_settings(
    job: FinetuningStage, inputs: FinetuningInputs, output: str | Path, states: StateFolder, device: Device
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
