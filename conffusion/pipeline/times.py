"""How long jobs take: means of finished jobs, by stage and task, which tell how long the others will take."""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from conffusion.core.layout import RunLayout
from conffusion.errors import StoreError
from conffusion.pipeline.plan import Plan
from conffusion.pipeline.planned import PlannedJob
from conffusion.store import read_json

_MOST_TIMES = 200  # benchmark files read per stage and task: more do not make a mean better


class StageTimes:
    """Mean seconds per unit of work of a stage and task, or of the stage alone where the task has not been timed."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], tuple[float, float]] = {}

    def add(self, job: PlannedJob, seconds: float) -> None:
        """Count a job that took so many seconds of wall time."""
        stage = stage_of(job)[0]
        for key in {(stage, job.task), (stage, "")}:
            before = self._sums.get(key, (0.0, 0.0))
            self._sums[key] = before[0] + seconds, before[1] + job.work

    def per_unit(self, stage: str, task: str) -> float | None:
        """Seconds per unit of work; None where no job of the stage has been timed."""
        seconds, work = self._sums.get((stage, task)) or self._sums.get((stage, "")) or (0.0, 0.0)
        return seconds / work if work else None

    def of(self, job: PlannedJob) -> float | None:
        """Seconds that the whole job takes; None where no job of its stage has been timed."""
        per_unit = self.per_unit(stage_of(job)[0], job.task)
        return None if per_unit is None else job.work * per_unit


def time_left(job_seconds: Iterable[float], concurrency: float) -> float:
    """Seconds until all jobs are done.

    Args:
        job_seconds: Seconds that each unfinished job still takes.
        concurrency: Jobs that run at a time, on average.
    """
    seconds = list(job_seconds)
    return max(sum(seconds) / max(concurrency, 1.0), max(seconds, default=0.0))


def stage_of(job: PlannedJob) -> tuple[str, str, str]:
    """Stage, task and split under which a job is counted.

    Sampling is counted by task and split, what takes long by task; everything that shows results is one stage.
    """
    if job.rule == "sample_variants":
        return job.rule, job.task, job.split
    if job.rule in ("finetune_method", "train_prior"):
        return job.rule, job.task, ""
    if job.rule.startswith(("plot_", "tabulate_", "gather_", "write_")):
        return "tables, figures, report", "", ""
    return job.rule, "", ""


def measured(folder: Path, jobs: Iterable[PlannedJob]) -> list[tuple[PlannedJob, float]]:
    """Jobs with the wall seconds in their benchmark files; of very many jobs of a stage and task, a selection."""
    groups: dict[tuple[str, str], list[PlannedJob]] = {}
    for job in jobs:
        groups.setdefault((stage_of(job)[0], job.task), []).append(job)
    chosen = [job for group in groups.values() for job in group[:: 1 + len(group) // _MOST_TIMES]]
    return [(job, seconds) for job in chosen if (seconds := _benchmark_seconds(folder, job)) is not None]


def split_sizes(folder: Path, plan: Plan) -> dict[str, int]:
    """Images of every split: as they were dealt, else as configured, else unknown."""
    try:
        with RunLayout(folder).splits.open(newline="") as file:
            return dict(Counter(row["split"] for row in csv.DictReader(file)))
    except (OSError, KeyError):
        sizes = plan.config.dataset.splits.model_dump()
        return {split: int(size) for split, size in sizes.items()} if min(sizes.values()) >= 1 else {}


def _benchmark_seconds(folder: Path, job: PlannedJob) -> float | None:
    """Wall seconds of a finished job: from its benchmark file, or of a shard's sampling alone from its manifest."""
    try:
        with (RunLayout(folder).benchmarks / f"{job.name}.tsv").open(newline="") as file:
            return float(next(csv.DictReader(file, delimiter="\t"))["s"])
    except (OSError, KeyError, StopIteration, ValueError):
        if job.rule != "sample_variants":
            return None
    try:
        return float(read_json(folder / job.output)["attributes"]["seconds_per_image"]) * job.work
    except (StoreError, KeyError, TypeError, ValueError):
        return None
