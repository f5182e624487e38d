"""The state of a run as people read it in a terminal, and as JSON."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict

from conffusion.core.progress import format_duration
from conffusion.pipeline.records import SILENT_SECONDS, JobRecord
from conffusion.pipeline.status import Failure, RunningJob, RunStatus, StageStatus

MOST_FAILURES = 10
_HEADINGS = ("stage", "jobs", "work", "time each", "rate now", "left")


def status_json(status: RunStatus) -> str:
    """Every field of the status; durations in seconds, times in seconds since the epoch."""
    return json.dumps({**asdict(status), "is_complete": status.is_complete}, indent=1)


def status_text(status: RunStatus) -> str:
    """One screen: what is left, the stages, what runs, what failed."""
    return "\n".join([*_summary(status), "", *_stages(status), *_running(status), *_failures(status)])


def _summary(status: RunStatus) -> Iterator[str]:
    counts = [f"{status.done:,} of {status.total:,} jobs done", f"{len(status.running)} running"]
    counts += [f"{len(status.failures)} failed"] * bool(status.failures)
    yield f"run {status.run} ({status.folder}): {', '.join(counts)}"
    if status.is_complete:
        return
    basis = f"by the times of {status.n_timed:,} finished jobs and the progress of those that run"
    if status.seconds_left is None:
        left = format_duration(status.job_seconds_left)
        yield f"no job runs at the moment; {left} of jobs left, one after the other, {basis}"
    else:
        n_running = len(status.running)
        yield f"about {format_duration(status.seconds_left)} left with {n_running} job(s) at a time, {basis}"
    if status.untimed:
        left_out = "; ".join(f"{stage} ({count:,})" for stage, count in status.untimed.items())
        yield f"not in it, as none has finished yet: {left_out}"


def _stages(status: RunStatus) -> list[str]:
    rows = [_HEADINGS, *(_stage_row(stage) for stage in status.stages)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(_HEADINGS))]
    return [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _stage_row(stage: StageStatus) -> tuple[str, ...]:
    counted = stage.unit != "jobs"
    name = " ".join(part for part in (stage.stage, stage.task, stage.split) if part)
    jobs = f"{stage.done:,}/{stage.total:,}" + (f" +{stage.running}" if stage.running else "")
    work = f"{stage.work_done:,.0f}/{stage.work_total:,.0f} {stage.unit}" if counted else ""
    each = "" if stage.seconds_per_unit is None else _duration(stage.seconds_per_unit)
    rate = "" if stage.rate is None or not counted else f"{stage.rate:.3g} {stage.unit}/s"
    return name, jobs, work, each, rate, _stage_left(stage)


def _stage_left(stage: StageStatus) -> str:
    if stage.done == stage.total:
        return "done"
    if stage.seconds_left is None:
        return "?"
    return format_duration(stage.seconds_left / max(stage.running, 1))


def _running(status: RunStatus) -> Iterator[str]:
    if status.gpus:
        yield "\nGPUs in use: " + "; ".join(f"{host}: {', '.join(gpus)}" for host, gpus in status.gpus.items())
    if status.running:
        yield "\nrunning (+ above)"
    for job in status.running:
        yield f"  {job.record.name} on {_where(job.record)}: {_progress(job)}"


def _progress(job: RunningJob) -> str:
    """How far a running job is."""
    progress, ran = job.record.progress, f"{format_duration(job.elapsed)} so far"
    if job.record.gpus is None:
        return f"waits for a GPU, {ran}"
    parts = [ran]
    if progress:
        numbers = f"{progress.done:,}/{progress.total:,} {progress.unit} ({progress.percent:.0f} %)"
        parts = [f"{progress.label} {numbers}, {progress.rate:.3g} {progress.unit}/s", ran]
    if job.seconds_left is not None:
        parts.append(f"{format_duration(job.seconds_left)} left")
    if job.silent > SILENT_SECONDS / 2:
        parts.append(f"not heard of for {format_duration(job.silent)}")
    return ", ".join(parts)


def _where(record: JobRecord) -> str:
    parts = [record.host, f"process {record.pid}"]
    parts += [f"GPU {', '.join(record.gpus)}"] if record.gpus else []
    parts += [f"Slurm job {record.slurm_job}"] if record.slurm_job else []
    return ", ".join(parts)


def _failures(status: RunStatus) -> Iterator[str]:
    if status.failures:
        yield "\nfailed, and not done since"
    for failure in status.failures[:MOST_FAILURES]:
        yield from _failure(failure, status.folder)
    if len(status.failures) > MOST_FAILURES:
        yield f"  and {len(status.failures) - MOST_FAILURES} more"


def _failure(failure: Failure, folder: str) -> Iterator[str]:
    record = failure.record
    moment = time.strftime("%d %b %H:%M:%S", time.localtime(record.beat))
    if failure.died:
        what = f"died without a message after {moment} (killed, out of memory, or its machine is gone)"
    else:
        what = f"failed {moment}: {record.message}"
    yield f"  {record.name} on {_where(record)}: {what}"
    yield f"    {folder}/{record.log}"
    yield from (f"      {line}" for line in failure.log_lines)


def _duration(seconds: float) -> str:
    return (
        f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s" if seconds < 100 else format_duration(seconds)
    )
