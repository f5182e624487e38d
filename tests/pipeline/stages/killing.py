"""Runs a job again and again and kills it, until it is let through: python -m tests.pipeline.stages.killing FOLDER JOB.

The jobs are children that this process forks before it has computed anything, so that attempts cost no start-up. What
they are killed at is a moment (seconds after the start) or an event: the n-th time that bytes of a state are written, a
file is flushed to disk, renamed, linked or removed. A kill at an event happens just before it.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which the optimiser would import in every child

from conffusion.config.schema import SharpeningSettings
from conffusion.pipeline.stages.finetuning import finetune_method
from conffusion.training import state
from conffusion.training.priors import PriorJob, write_prior
from conffusion.training.state import StateFolder
from tests.methods.small_specs import SIDE
from tests.pipeline.stages.small_run import CPU, DEGRADATION, FINETUNING, SEED, TUNED, SmallRun, prior_settings

TASK = "super_resolution"
# In turn, then the job is let through; some jobs may end before their moment comes.
KILLS: dict[str, list[tuple[str, float]]] = {
    "finetune": [
        ("seconds", 0.3),  # before there is a state
        ("write", 40),  # in the middle of the first state
        ("replace", 3),  # a state without its manifest
        ("write", 700),  # in a later state, while earlier ones stand
        ("seconds", 0.9),
        ("fsync", 5),
        ("replace", 4),
        ("write", 900),
        ("link", 2),  # the outputs
        ("replace", 3),
        ("unlink", 4),  # an end that is almost good
    ],
    "pretrain": [("write", 40), ("replace", 2), ("seconds", 0.8), ("write", 600), ("replace", 4), ("fsync", 5)],
}


def main(folder: Path, job: str) -> None:
    """Prints a line for every attempt."""
    torch.set_num_threads(1)
    work = JOBS[job]
    for kill in (*KILLS[job], None):
        killed = attempt(lambda: work(SmallRun(folder, TASK)), kill)
        left = sorted(path.name for path in folder.glob("state/**/step-*"))
        sys.stdout.write(f"{'killed' if killed else 'finished'} {kill} {left}\n")


def attempt(work: Callable[[], None], kill: tuple[str, float] | None) -> bool:
    """Whether the job was killed; it may have ended before."""
    child = os.fork()
    if child == 0:
        _work_and_die(work, kill)
    if kill is not None and kill[0] == "seconds":
        time.sleep(kill[1])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError("the job failed; the lines above say why")
    return os.WIFSIGNALED(status)


def _work_and_die(work: Callable[[], None], kill: tuple[str, float] | None) -> None:
    try:
        if kill is not None and kill[0] != "seconds":
            owner = state._Hashed if kill[0] == "write" else os
            _kill_at(owner, kill[0], int(kill[1]))
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _kill_at(owner: Any, name: str, count: int) -> None:
    """Die instead of the count-th call of a function; the calls before are real."""
    function, left = getattr(owner, name), count

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(owner, name, counted)


def finetune(run: SmallRun) -> None:
    """45 steps and 25 of sharpening with dropout, noise, mirroring and batches in parts; five states."""
    options = {**dict(prior_settings(TASK).options), "dropout": 0.2}
    shared = FINETUNING.model_copy(
        update={
            "validate_every": 20,
            "micro_batch_size": 5,
            "sharpening": SharpeningSettings(n_steps=25, learning_rate_factor=0.3),
        }  # fmt: skip
    )
    job = run.finetuning_job(
        "adm_uq", prior=prior_settings(TASK, options=options), finetuning=shared,
        tuned=TUNED.model_copy(update={"n_steps": 45}),
    )  # fmt: skip
    finetune_method(job, run.finetuning_inputs(), run.outputs(), run.states(minutes=0), CPU)


def pretrain(run: SmallRun) -> None:
    """A prior with random holes, noise levels and dropout in 220 steps."""
    task = "inpainting"
    prior = prior_settings(task)
    training = prior.training.model_copy(update={"n_steps": 220, "batch_size": 2})
    options = {**dict(prior.options), "dropout": 0.2}
    prior = prior.model_copy(update={"training": training, "options": options})
    write_prior(
        PriorJob("own", prior, DEGRADATION[task], SIDE, SEED), CPU, output=run.root / "prior.safetensors",
        states=StateFolder(run.root / "state" / "own", "digest", 0),
    )  # fmt: skip


JOBS = {"finetune": finetune, "pretrain": pretrain}

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
