"""kill -9 of single jobs and of Snakemake with all its jobs: what is finished stays, tables come out the same."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clusters.test_two_nodes import METHODS, SMALL, tables
from tests.test_workflow_end_to_end import TASK, Workflow, set_up

pytestmark = pytest.mark.system
N_CORES = 2


def start(workflow: Workflow, *arguments: str) -> "subprocess.Popen[bytes]":
    """Snakemake in a process group of its own; its output is appended to printed.txt."""
    with (workflow.root / "printed.txt").open("a") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments, "--cores", str(N_CORES), "--nocolor",
             "--configfile", f"config/{workflow.overlay}.yaml", "pruned.yaml", "--config", "device=cpu"],
            cwd=workflow.root, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def job_processes(workflow: Workflow) -> list[int]:
    """Processes of the run's scripts, which Snakemake keeps below the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if command.startswith(sys.executable) and f"{workflow.root}/.snakemake/scripts/" in command:
                found.append(int(entry.name))
    return found


def finished_shards(workflow: Workflow) -> dict[str, float]:
    """Manifests of variants, with the time at which they were written."""
    return {str(path): path.stat().st_mtime for path in workflow.run.glob(f"{TASK}/variants/*/shard-*.json")}


def kill_all(snakemake: "subprocess.Popen[bytes]", workflow: Workflow) -> None:
    """The whole process group at once, as when a machine loses power."""
    os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.wait()
    for process in job_processes(workflow):
        os.kill(process, signal.SIGKILL)


def unlock(workflow: Workflow) -> None:
    assert start(workflow, "--unlock").wait() == 0


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc to find the processes of jobs")
def test_killed_jobs_and_workflows_change_no_table(tmp_path: Path) -> None:
    for name in ("calm", "restless"):
        (tmp_path / name).mkdir()
    calm, restless = (set_up(tmp_path / name, [TASK], METHODS, SMALL) for name in ("calm", "restless"))
    assert start(calm, "tables").wait() == 0
    moments, n_kills, code = random.Random(5), 0, None
    while code != 0:
        before, snakemake = finished_shards(restless), start(restless, "tables")
        wait = moments.uniform(4, 25) if n_kills < 6 else 3600
        try:
            code = snakemake.wait(timeout=wait)
            assert code == 0, (restless.root / "printed.txt").read_text()[-3000:]
        except subprocess.TimeoutExpired:
            if n_kills % 2:
                kill_all(snakemake, restless)
                unlock(restless)
            else:
                for process in job_processes(restless):
                    os.kill(process, signal.SIGKILL)
                snakemake.wait()
            n_kills += 1
        after = finished_shards(restless)
        repeated = [name for name, written in before.items() if after.get(name) != written]
        assert len(repeated) <= N_CORES  # those whose end Snakemake did not live to note, one for each of its jobs
    assert n_kills >= 4
    assert tables(restless) == tables(calm)
    time.sleep(0.1)
    assert not [path for path in restless.run.rglob("*.tmp") if "jobs" not in path.parts]
    assert start(restless, "tables", "--dry-run").wait() == 0
    assert "Nothing to be done" in (restless.root / "printed.txt").read_text()[-2000:]
