"""Finished small runs, one for each task, shared by the tests of the stages; tests that damage files copy them."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.pipeline.stages.small_run import DEGRADATION, PROTOCOLS, SmallRun

SHARDS = {"finetune": 1, "selection": 1, "calibration": 3, "test": 2}


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SmallRun]:
    """All stages of DM_SB and N-Conffusion on a task, computed when they are first asked for."""
    return cache(lambda task: complete(SmallRun(tmp_path_factory.mktemp("run"), task)))


@pytest.fixture(params=list(DEGRADATION))
def finished(request: pytest.FixtureRequest, run_of: Callable[[str], SmallRun]) -> SmallRun:
    """The finished run of each task, to be read only."""
    return run_of(request.param)


@pytest.fixture
def copied(run_of: Callable[[str], SmallRun], tmp_path: Path) -> SmallRun:
    """A run that a test may damage; one task is enough where tasks do not differ."""
    shutil.copytree(run_of("super_resolution").root, tmp_path / "run")
    return SmallRun(tmp_path / "run", "super_resolution")


def complete(run: SmallRun) -> SmallRun:
    """Compute all stages."""
    torch.set_num_threads(1)
    run.prepare()
    run.train_prior()
    for split, n_shards in SHARDS.items():
        for k in range(n_shards):
            run.sample(split, k, n_shards)
        run.extract(split, n_shards)
    run.finetune()
    for protocol in PROTOCOLS:
        run.predict(protocol)
        for method in ("dm_sb", "n_conffusion"):
            run.calibrate(method, protocol)
            run.evaluate(method, protocol)
    return run
