"""Training that is killed at any moment and started again leaves the same files as training that was left alone."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conffusion.models.checkpoint import load_checkpoint
from conffusion.pipeline.finetuning import FinetuningCall
from conffusion.pipeline.states import job_states
from tests.pipeline.stages import killing
from tests.pipeline.stages.small_run import CPU, FINETUNING, TUNED, SmallRun

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def killed_and_restarted(folder: Path, job: str) -> list[str]:
    """What became of every attempt."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.stages.killing", str(folder), job],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_fine_tuning_that_is_killed_again_and_again_ends_the_same(copied: SmallRun) -> None:
    method_run = copied.candidates.parent
    attempts = killed_and_restarted(copied.root, "finetune")
    assert sum(line.startswith("killed") for line in attempts) >= 8
    killed = files(method_run)
    killing.finetune(copied)
    undisturbed = files(method_run)
    assert sorted(path for path in killed if "candidates" in path) == [
        f"candidates/step-{step:07d}.safetensors" for step in (20, 40, 45, 65, 70)
    ]
    assert killed == undisturbed
    assert not (copied.root / "state" / copied.task).exists()


def test_pretraining_that_is_killed_again_and_again_ends_the_same(tmp_path: Path) -> None:
    attempts = killed_and_restarted(tmp_path, "pretrain")
    assert sum(line.startswith("killed") for line in attempts) >= 4
    outcomes = [load_checkpoint(tmp_path / "prior.safetensors")]
    killing.pretrain(SmallRun(tmp_path, "super_resolution"))
    outcomes.append(load_checkpoint(tmp_path / "prior.safetensors"))
    (weights, record), (expected, expected_record) = outcomes
    for settings in (record, expected_record):
        settings["training"].pop("seconds")
    assert record == expected_record
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    assert not (tmp_path / "state" / "own").exists()


START = """
import sys
from conffusion.pipeline.finetuning import FinetuningCall, finetune_in_processes
finetune_in_processes(FinetuningCall.from_json(sys.argv[1]))
"""


def running(mark: str) -> list[int]:
    """Processes whose command line holds the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def until(condition: Callable[[], bool], seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return condition()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_processes_end_with_their_killed_job_and_leave_a_state(copied: SmallRun) -> None:
    job = copied.finetuning_job(
        precision="float32",
        tuned=TUNED.model_copy(update={"n_steps": 10**6}),
        finetuning=FINETUNING.model_copy(
            update={"validate_every": 10**6, "processes": 2, "checkpoint_every_minutes": 0}
        ),
    )
    folder, log = copied.root / "several", copied.root / "several.log"
    call = FinetuningCall(job, copied.finetuning_inputs(), copied.outputs(), str(folder), "code", "cpu", 1, str(log))
    with subprocess.Popen([sys.executable, "-c", START, call.to_json()], cwd=ROOT, stderr=subprocess.DEVNULL) as parent:
        saved = until(lambda: any(folder.glob("step-*.json")))
        assert len(running(str(folder))) == 4  # torchrun, its two processes, and the job
        parent.kill()
    assert saved
    assert until(lambda: not running(str(folder)))
    states = job_states(folder, 0, CPU, digests=(job.digest, "code"), inputs=call.inputs.files, n_processes=2)
    state = states.latest()
    assert state is not None and len(state["torch"]) == 2
    assert "state after step 20 saved" in log.read_text()
    alone = job_states(folder, 0, CPU, digests=(job.digest, "code"), inputs=call.inputs.files)
    assert alone.latest() is None  # one process would add up other numbers
