"""Several processes train like one: the same batches and noise, gradients added up, one that validates."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conffusion.training.parallel import ALONE, Processes
from tests.training.together import outcome

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes ends with, by case."""
    folder = tmp_path_factory.mktemp("together")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*run, "-m", "tests.training.together", str(folder / "process")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"process-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize(("kind", "objective"), [("adm", "pinball"), ("sr3", "sharpening")])
def test_two_processes_train_like_one(kind: str, objective: str, together: list[dict[str, Any]]) -> None:
    first, second = (found[f"{kind} {objective}"] for found in together)
    expected = outcome(kind, objective, ALONE)
    for ours, one in zip(first["records"], expected["records"], strict=True):
        assert ours["step"] == one["step"]
        assert ours["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert first["records"] == second["records"]
    for name, value in expected["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], value, rtol=0, atol=1e-5)
    assert first["limits"] == [[11, 11]] * 2 and first["generators"] == 2


def test_batch_norm_sees_the_parts_and_shares_their_statistics(together: list[dict[str, Any]]) -> None:
    first, second = (found["resnext pinball"] for found in together)
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    expected = outcome("resnext", "pinball", ALONE)
    assert first["records"][-1]["loss"] == pytest.approx(expected["records"][-1]["loss"], rel=0.02)
    means = [name for name in expected["weights"] if name.endswith("running_mean")]
    differences = [float((first["weights"][name] - expected["weights"][name]).abs().max()) for name in means]
    spread = max(float(expected["weights"][name].abs().max()) for name in means)
    assert means and 0 < max(differences) < 0.1 * spread


def test_parts_cover_a_batch_without_overlap() -> None:
    for n_items in (2, 3, 7, 32):
        for n in (1, 2, 3, 5):
            rows = [list(range(n_items))[Processes(rank, n).part(n_items)] for rank in range(n)]
            assert sum(rows, []) == list(range(n_items))
            assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_alone_everything_stays_as_it_is() -> None:
    tensor = torch.tensor([1.0, 2.0])
    ALONE.add_up([tensor])
    assert tensor.tolist() == [1.0, 2.0]
    assert ALONE.total(0.1, 3) == [0.1, 3]
    assert ALONE.first_decides(True) and not ALONE.first_decides(False)
    assert [values.tolist() for values in ALONE.gather(tensor)] == [[1.0, 2.0]]
