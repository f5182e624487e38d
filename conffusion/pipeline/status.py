"""How far a run is, from its results folder alone: what is done, how fast, how long still, what runs, what failed.

A job counts as done when the file that it writes last is there, whether or not a change asks for it anew. Times of
finished jobs come from their benchmark files, of running ones from their records (`conffusion.pipeline.records`). All
of this lies in results/<run>, so any machine that sees the folder can watch the run.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conffusion.config import load_config
from conffusion.core.layout import RunLayout
from conffusion.errors import ConfigError
from conffusion.pipeline.plan import Plan
from conffusion.pipeline.planned import PlannedJob, planned_jobs
from conffusion.pipeline.records import JobRecord, last_lines, read_records
from conffusion.pipeline.times import StageTimes, measured, split_sizes, stage_of, time_left


@dataclass(frozen=True)
class StageStatus:
    """Jobs that are counted together: those of one rule, by task or by task and split where that tells more.

    Attributes:
        stage: Name of the rule; "tables, figures, report" for all rules that show results.
        task: Name of the task, empty for all together.
        split: Name of the split, likewise.
        done: Finished jobs.
        total: Jobs in all.
        running: Jobs that run now.
        work_done: Finished `unit`, those of running jobs included.
        work_total: `unit` in all.
        unit: "images", "steps" or "jobs".
        seconds_per_unit: Wall time of a job per `unit`, its start-up included; None where nothing has been timed yet.
        rate: `unit` per second that the running jobs do together; None where none runs or nothing has been timed.
        seconds_left: Wall time of the unfinished jobs, one after the other; None where nothing has been timed yet.
    """

    stage: str
    task: str
    split: str
    done: int
    total: int
    running: int
    work_done: float
    work_total: float
    unit: str
    seconds_per_unit: float | None
    rate: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class RunningJob:
    """A job that runs now.

    Attributes:
        record: What it reports itself.
        elapsed: Seconds since it started.
        seconds_left: Seconds that it still takes, if that can be told.
        silent: Seconds since it was last heard of.
    """

    record: JobRecord
    elapsed: float
    seconds_left: float | None
    silent: float


@dataclass(frozen=True)
class Failure:
    """A job whose last attempt failed or died.

    Attributes:
        record: What it reports itself.
        died: Whether it ended without a message: killed, or its machine lost.
        log_lines: The last lines of its log.
    """

    record: JobRecord
    died: bool
    log_lines: tuple[str, ...]


@dataclass(frozen=True)
class RunStatus:
    """Everything that is known about a run at one moment.

    Attributes:
        run: Name of the run.
        folder: results/<run>.
        done: Finished jobs of `snakemake all`.
        total: Jobs of `snakemake all`.
        stages: In the order of the workflow.
        running: Jobs that run now, whether `all` needs them or not.
        failures: The latest first.
        gpus: GPUs in use by host; where a job does not say which, "?".
        seconds_left: Until all is done, if as many jobs go on running as now; None where none runs.
        job_seconds_left: Wall time of all unfinished jobs that can be timed, one after the other.
        untimed: By stage, how many unfinished jobs are of one of which none has been timed, and so are left out.
        n_timed: Finished jobs behind the times.
    """

    run: str
    folder: str
    done: int
    total: int
    stages: tuple[StageStatus, ...]
    running: tuple[RunningJob, ...]
    failures: tuple[Failure, ...]
    gpus: Mapping[str, tuple[str, ...]]
    seconds_left: float | None
    job_seconds_left: float
    untimed: Mapping[str, int]
    n_timed: int

    @property
    def is_complete(self) -> bool:
        """Whether every job of `snakemake all` is done."""
        return self.done == self.total


def read_status(folder: str | Path, clock: Callable[[], float] = time.time) -> RunStatus:
    """The state of the run in a results folder.

    Args:
        folder: results/<run>, here or on a file system shared with the machines that compute.
        clock: Source of the time, seconds since the epoch; replaceable for tests.
    Raises:
        ConfigError: If the folder holds no config.yaml, or one of another version of the project.
    """
    folder = Path(folder)
    layout = RunLayout(folder)
    if not layout.config.is_file():
        raise ConfigError(
            f"{folder}: holds no config.yaml, so it is no run's folder, or nothing of the run has started; "
            "expected results/<run>"
        )
    plan = Plan(load_config(layout.config))
    jobs = planned_jobs(plan, split_sizes(folder, plan))
    return _Snapshot(folder, plan, jobs, clock()).status()


class _Snapshot:
    """What is read of a run, once, and the arithmetic on it."""

    def __init__(self, folder: Path, plan: Plan, jobs: Sequence[PlannedJob], now: float) -> None:
        self._folder, self._plan, self._jobs, self._now = folder, plan, jobs, now
        planned, rules = {job.name for job in jobs}, {job.rule for job in jobs}
        # A record of another plan, such as of a shard of a former number of shards, does not count.
        records = [one for one in read_records(folder) if one.name in planned or one.rule not in rules]
        self._failed = [record for record in records if record.state == "failed" or record.has_died(now)]
        self._running = {record.name: record for record in records if record not in self._failed}
        parents = {job.output.parent for job in jobs}  # each is listed once, for the sake of runs with many shards
        files = {parent: set(os.listdir(folder / parent)) for parent in parents if (folder / parent).is_dir()}
        self._done = {
            job.name
            for job in jobs
            if job.output.name in files.get(job.output.parent, ()) and job.name not in self._running
        }
        self._times, self._n_timed = self._measured_times()

    def status(self) -> RunStatus:
        left = {job.name: self._left(job) for job in self._jobs if job.name not in self._done}
        timed = [seconds for seconds in left.values() if seconds is not None]
        return RunStatus(
            run=self._plan.config.run,
            folder=str(self._folder),
            done=len(self._done),
            total=len(self._jobs),
            stages=tuple(self._stages(left)),
            running=tuple(
                RunningJob(record, self._elapsed(record), left.get(name), max(0.0, self._now - record.beat))
                for name, record in self._running.items()
            ),
            failures=tuple(
                Failure(record, record.state == "running", last_lines(self._folder / record.log))
                for record in sorted(self._failed, key=lambda one: -one.beat)
            ),
            gpus=self._gpus(),
            seconds_left=time_left(timed, len(self._running)) if self._running or not left else None,
            job_seconds_left=sum(timed),
            untimed=dict(
                Counter(stage_of(job)[0] for job in self._jobs if job.name in left and left[job.name] is None)
            ),
            n_timed=self._n_timed,
        )

    # ---- time

    def _measured_times(self) -> tuple[StageTimes, int]:
        """Times of the stages, and how many finished jobs they come from."""
        times = StageTimes()
        done = [job for job in self._jobs if job.name in self._done]
        finished = measured(self._folder, done)
        for job, seconds in finished:
            times.add(job, seconds)
        timed = {(stage_of(job)[0], job.task) for job in done}
        for job in self._jobs:  # a stage of which nothing is finished is timed by the progress of what runs
            record = self._running.get(job.name)
            if record and record.progress and record.progress.done and (stage_of(job)[0], job.task) not in timed:
                times.add(job, self._elapsed(record) + self._own_left(record))
        return times, len(finished)

    def _left(self, job: PlannedJob) -> float | None:
        """Seconds that an unfinished job still takes: by its own progress, else by the time of others of its stage."""
        record, seconds = self._running.get(job.name), self._times.of(job)
        if record and record.progress and record.progress.done:
            return self._own_left(record)
        if seconds is None:
            return None
        return max(0.0, seconds - (self._elapsed(record) if record else 0.0))

    def _own_left(self, record: JobRecord) -> float:
        """Seconds left by the job's own progress, less what has passed since it was last heard of."""
        assert record.progress is not None
        return max(0.0, record.progress.left - max(0.0, self._now - record.beat))

    def _elapsed(self, record: JobRecord) -> float:
        return max(0.0, self._now - record.started)

    # ---- parts

    def _stages(self, left: Mapping[str, float | None]) -> Iterable[StageStatus]:
        groups: dict[tuple[str, str, str], list[PlannedJob]] = {}
        for job in self._jobs:
            groups.setdefault(stage_of(job), []).append(job)
        order = list(dict.fromkeys(stage for stage, _, _ in groups))
        for (stage, task, split), jobs in sorted(groups.items(), key=lambda group: order.index(group[0][0])):
            unfinished = [left[job.name] for job in jobs if job.name in left]
            timed = [seconds for seconds in unfinished if seconds is not None]
            running = [job for job in jobs if job.name in self._running]
            per_unit = self._times.per_unit(stage, task)
            yield StageStatus(
                stage, task, split,
                done=sum(job.name in self._done for job in jobs), total=len(jobs), running=len(running),
                work_done=sum(job.work * self._share(job) for job in jobs), work_total=sum(job.work for job in jobs),
                unit=jobs[0].unit, seconds_per_unit=per_unit,
                rate=self._rate(running, per_unit),
                seconds_left=sum(timed) if len(timed) == len(unfinished) else None,
            )  # fmt: skip

    def _rate(self, running: Sequence[PlannedJob], per_unit: float | None) -> float | None:
        """Units of work per second of running jobs together: by their own progress, else by the time of others."""
        rates = []
        for job in running:
            progress = self._running[job.name].progress
            if progress and progress.done:
                rates.append(job.work * progress.rate / max(progress.total, 1))
            elif per_unit:
                rates.append(1 / per_unit)
        return sum(rates) if rates else None

    def _share(self, job: PlannedJob) -> float:
        """Share of a job that is done."""
        record = self._running.get(job.name)
        if record and record.progress:
            return record.progress.percent / 100
        return float(job.name in self._done)

    def _gpus(self) -> dict[str, tuple[str, ...]]:
        used: dict[str, set[str]] = {}
        for record in self._running.values():
            for gpu in record.gpus or ():
                used.setdefault(record.host, set()).add(gpu)
        return {host: tuple(sorted(gpus, key=lambda gpu: (len(gpu), gpu))) for host, gpus in sorted(used.items())}
