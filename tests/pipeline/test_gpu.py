"""GPU locks: jobs on one machine never share an index, and a dead job frees its own."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conffusion.errors import ConfigError
from conffusion.pipeline.gpu import claim_gpus, gpus_per_job, visible_gpus

CLAIM = """
import os, sys, time
from conffusion.pipeline.gpu import claim_gpus
locks = claim_gpus(int(os.environ.get("WANTED", 1)), sys.argv[1] or None)
print(os.environ["CUDA_VISIBLE_DEVICES"], "locked" if locks else "free", flush=True)
time.sleep(120)
"""


class Jobs:
    """Processes that claim a GPU and hold it until they are killed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.running = folder, list[subprocess.Popen[str]]()

    def start(self, folder: str | None = None, **environment: str) -> "subprocess.Popen[str]":
        clean = {key: value for key, value in os.environ.items() if key != "SLURM_JOB_ID"}
        job = subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(self._folder) if folder is None else folder],
            stdout=subprocess.PIPE,
            text=True,
            env={**clean, **environment},
        )
        self.running.append(job)
        return job

    @staticmethod
    def answer(job: "subprocess.Popen[str]", seconds: float = 30) -> str | None:
        """What the job printed, or None if it was still waiting after some seconds."""
        assert job.stdout is not None
        ready, _, _ = select.select([job.stdout], [], [], seconds)
        return job.stdout.readline().strip() if ready else None

    @staticmethod
    def kill(job: "subprocess.Popen[str]") -> None:
        job.send_signal(signal.SIGKILL)
        job.wait(timeout=20)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    some = Jobs(tmp_path)
    yield some
    for job in some.running:
        if job.poll() is None:
            Jobs.kill(job)
        assert job.stdout is not None
        job.stdout.close()


def test_third_job_waits_for_a_dead_one_and_takes_its_place(jobs: Jobs) -> None:
    first, second = (jobs.start(CUDA_VISIBLE_DEVICES="0,1") for _ in range(2))
    taken = {first: jobs.answer(first), second: jobs.answer(second)}
    assert sorted(str(answer) for answer in taken.values()) == ["0 locked", "1 locked"]
    third = jobs.start(CUDA_VISIBLE_DEVICES="0,1")
    assert jobs.answer(third, seconds=1.5) is None
    jobs.kill(second)
    assert jobs.answer(third) == taken[second]
    assert first.poll() is None


def test_jobs_that_want_all_gpus_take_turns(jobs: Jobs) -> None:
    """In any order, none holds half of them while it waits."""
    waiting = [jobs.start(CUDA_VISIBLE_DEVICES="0,1", WANTED="2") for _ in range(3)]
    while waiting:
        ready, _, _ = select.select([job.stdout for job in waiting], [], [], 30)
        (first,) = (job for job in waiting if job.stdout in ready)
        assert Jobs.answer(first) == "0,1 locked"
        waiting.remove(first)
        assert all(Jobs.answer(job, seconds=0.7) is None for job in waiting)
        Jobs.kill(first)


def test_job_of_two_waits_without_holding_the_one_that_is_free(jobs: Jobs) -> None:
    single = jobs.start(CUDA_VISIBLE_DEVICES="0,1")
    assert jobs.answer(single) == "0 locked"
    double = jobs.start(CUDA_VISIBLE_DEVICES="0,1", WANTED="2")
    assert jobs.answer(double, seconds=1.5) is None
    other = jobs.start(CUDA_VISIBLE_DEVICES="0,1")
    assert jobs.answer(other) == "1 locked"
    jobs.kill(single)
    assert jobs.answer(double, seconds=1.5) is None
    jobs.kill(other)
    assert jobs.answer(double) == "0,1 locked"


def test_more_gpus_than_there_are_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match="3 GPUs are wanted and 2 visible; lower finetuning.processes"):
        claim_gpus(3, tmp_path)


def test_only_visible_gpus_are_taken(jobs: Jobs) -> None:
    answers = [jobs.answer(jobs.start(CUDA_VISIBLE_DEVICES=listed)) for listed in ("5", " 7 , 5", "GPU-ab12")]
    assert answers == ["5 locked", "7 locked", "GPU-ab12 locked"]


def test_choice_of_slurm_is_kept(jobs: Jobs) -> None:
    both = [jobs.start(CUDA_VISIBLE_DEVICES="3", SLURM_JOB_ID="42") for _ in range(2)]
    assert [jobs.answer(job) for job in both] == ["3 free", "3 free"]


def test_jobs_of_another_scheduler_do_not_wait_for_each_others_numbers(jobs: Jobs, tmp_path: Path) -> None:
    """Where a scheduler shows each job its own GPUs as 0, 1, ..., one number means different GPUs."""
    given = {"CUDA_VISIBLE_DEVICES": "0", "TMPDIR": str(tmp_path)}
    both = [Jobs.answer(jobs.start("", **given, PBS_JOBID=job)) for job in ("7.server", "8.server")]
    assert both == ["0 locked", "0 locked"]
    assert Jobs.answer(jobs.start("", **given, PBS_JOBID="8.server"), seconds=1.5) is None


@pytest.mark.parametrize("listed", ["", "-1", " "])
def test_without_gpus_nothing_is_locked(listed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == []
    assert claim_gpus(1, tmp_path) == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == listed
    assert list(tmp_path.iterdir()) == []


def test_gpus_of_the_machine_are_listed_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's tool of our own on the PATH prints what nvidia-smi -L prints for two GPUs."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g.5gb'\necho 'GPU 1: B (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("SLURM_JOB_ID", "42")  # a job without CUDA_VISIBLE_DEVICES was given none of them
    assert visible_gpus() == []
    monkeypatch.delenv("SLURM_JOB_ID")
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("device", "listed", "expected"), [("cpu", "0,1", 0), ("cuda", "", 1), ("auto", "0,1", 1), ("auto", "", 0)]
)
def test_rules_ask_for_one_gpu_where_networks_run_on_it(
    device: str, listed: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert gpus_per_job(device) == expected
