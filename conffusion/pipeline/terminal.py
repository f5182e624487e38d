"""What a run of the workflow says in a terminal: a line per finished job, progress of long jobs, failures."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conffusion.core.progress import format_duration
from conffusion.pipeline.plan import Plan
from conffusion.pipeline.planned import PlannedJob, planned_jobs
from conffusion.pipeline.records import last_lines, read_record
from conffusion.pipeline.times import StageTimes, measured, split_sizes, time_left

PROGRESS_SECONDS = 30.0  # shortest time between two lines about the same job
_PROGRESS_SHARE = 0.1  # ... and, of a job that runs for hours, this share of its time so far
_MOST_PROGRESS = 4  # jobs of which progress is shown at a time
_WIDEST_NAME = 60
_CLOCKS_AGREE = 60.0  # seconds by which clocks of the machines may differ


@dataclass
class RunningJob:
    """A job that has started: its name, the time, and the time of the last line about it (seconds since the epoch)."""

    name: str
    started: float
    shown: float


class TerminalLog:
    """Turns what happens in a run into lines; prints nothing itself.

    Args:
        plan: The configuration's plan.
        names: Names of the jobs that will run, as `conffusion.pipeline.records.job_name` has them.
        clock: Source of the time, seconds since the epoch; replaceable for tests.
    """

    def __init__(self, plan: Plan, names: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock, self._start = Path(plan.run), clock, clock()
        planned = {job.name: job for job in planned_jobs(plan, split_sizes(self._folder, plan))}
        self._left = {name: planned.get(name) or PlannedJob(*name.partition("/")[::2], Path()) for name in names}
        self._jobs, self._width = dict(self._left), min(max(map(len, names), default=0), _WIDEST_NAME)
        self._running: dict[int, RunningJob] = {}
        self._failed: dict[str, Path] = {}
        self._times, self._times_before = StageTimes(), StageTimes()
        for job, seconds in measured(self._folder, self._left.values()):
            self._times_before.add(job, seconds)
        self._busy = 0.0  # wall seconds of finished jobs together

    @property
    def has_failed(self) -> bool:
        """Whether a job has failed and not been finished since."""
        return bool(self._failed)

    @property
    def is_reported(self) -> bool:
        """Whether all jobs are finished, the report among them."""
        return not self._left and "write_report" in self._jobs

    def opening(self) -> list[str]:
        """The first line."""
        return [f"{_jobs(len(self._jobs))} to run; results in {self._folder}, what jobs say in {self._folder / 'logs'}"]

    def started(self, job_id: int, name: str) -> None:
        """A job has started, or been sent to a cluster."""
        now = self._clock()
        self._running[job_id] = RunningJob(name, now, now)

    def finished(self, job_id: int) -> list[str]:
        """A job has finished: its place in the count, its duration, and the time left for the whole run."""
        running = self._running.pop(job_id, None)
        if running is None or running.name not in self._left:
            return []  # targets such as `all` do nothing
        job, seconds = self._left.pop(running.name), self._clock() - running.started
        self._failed.pop(running.name, None)
        self._times.add(job, seconds)
        self._busy += seconds
        line = f"{running.name:<{self._width}}  {format_duration(seconds):>6}{self._time_left()}"
        return [self._stamped(line, f"{len(self._jobs) - len(self._left)}/{len(self._jobs)}")]

    def progress(self) -> list[str]:
        """Lines of jobs that have run for long without one, by the records that they keep."""
        now = self._clock()
        lines: list[str] = []
        for job in self._running.values():
            is_due = now - job.shown >= max(PROGRESS_SECONDS, _PROGRESS_SHARE * (now - job.started))
            if not is_due or len(lines) == _MOST_PROGRESS:
                continue
            record = read_record(self._folder, job.name)
            if record and record.progress and record.started > job.started - _CLOCKS_AGREE:
                job.shown = now
                lines.append(self._stamped(f"{job.name}: {record.progress}"))
        return lines

    def failed(self, job_id: int, name: str, logs: Sequence[str]) -> list[str]:
        """A job has failed: its name, and the end of its log file."""
        running = self._running.pop(job_id, None)
        log = Path(logs[0]) if logs else self._folder / "logs"
        self._failed[name] = log
        after = f" after {format_duration(self._clock() - running.started)}" if running else ""
        tail = [f"    {line}" for line in last_lines(log)]
        where = f"the end of {log}:" if tail else f"{log} is empty"
        return [self._stamped(f"FAILED: {name}{after}; {where}"), *tail]

    def interrupted(self) -> list[str]:
        """The run was interrupted, as by Ctrl-C."""
        done, total = len(self._jobs) - len(self._left), len(self._jobs)
        return [
            self._stamped(
                f"interrupted: {done} of {_jobs(total)} finished and kept; the same command goes on from there"
            )
        ]

    def closing(self) -> list[str]:
        """The last lines: how long it took, or what failed and what to do."""
        done, total = len(self._jobs) - len(self._left), len(self._jobs)
        if self._failed:
            return [
                "",
                f"{len(self._failed)} of {_jobs(total)} failed, {done} finished and kept:",
                *(f"    {name}: {log}" for name, log in self._failed.items()),
                "Remove the cause that the log names, then run the same command again: it goes on from there.",
            ]
        return [] if self._left else [f"done: {_jobs(total)} in {format_duration(self._clock() - self._start)}"]

    def _stamped(self, text: str, count: str = "") -> str:
        width = 2 * len(str(len(self._jobs))) + 1
        return f"{time.strftime('%H:%M:%S', time.localtime(self._clock()))}  {count:>{width}}  {text}"

    def _time_left(self) -> str:
        """Estimate for the whole run, from the times of finished jobs, else from those of earlier runs."""
        now = self._clock()
        elapsed = {job.name: now - job.started for job in self._running.values()}
        seconds, untimed = [], []
        for name, job in self._left.items():
            duration = self._times.of(job) or self._times_before.of(job)
            if duration is None:
                untimed.append(job)
            else:
                seconds.append(max(0.0, duration - elapsed.get(name, 0.0)))
        if not seconds or any(job.unit != "jobs" for job in untimed):  # those that are counted in units take long
            return ""
        concurrency = (self._busy + sum(elapsed.values())) / max(now - self._start, 1.0)
        return f"  {'at least' if untimed else 'about'} {format_duration(time_left(seconds, concurrency))} left"


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"
