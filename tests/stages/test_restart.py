"""Training that is killed at any moment and started again leaves the same files as training that was left alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conffusion.models.checkpoint import load_checkpoint
from tests.stages import killing
from tests.stages.small_run import SmallRun

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def killed_and_restarted(folder: Path, job: str) -> list[str]:
    """What became of every attempt."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.stages.killing", str(folder), job],
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
    arm = copied.candidates.parent
    attempts = killed_and_restarted(copied.root, "finetune")
    assert sum(line.startswith("killed") for line in attempts) >= 8
    killed = files(arm)
    killing.finetune(copied)
    undisturbed = files(arm)
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
