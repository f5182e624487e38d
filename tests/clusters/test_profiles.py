"""What jobs ask a cluster for, as dry runs with the profiles show it, and the scripts of the generic profile."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_NETWORKS = {"sample_variants", "finetune_method", "predict_bounds", "trace_candidates"}


def requests(*arguments: str) -> dict[str, dict[str, int]]:
    """Numbers that the last job of every rule asks for, in a dry run of the smoke configuration."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "all", "tune", "--dry-run", "--verbose", "--nocolor", "--forceall",
         *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for rule, block in re.findall(r"^(?:local)?rule (\w+):\n((?: .*\n)+)", done.stdout, flags=re.MULTILINE):
        numbers = re.search(r"^    resources: (.*)$", block, flags=re.MULTILINE)
        assert numbers is not None
        found[rule] = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)(?=,|$)", numbers[1])}
    return found


@pytest.mark.parametrize("profile", ["slurm", "generic"])
def test_only_rules_with_networks_ask_for_a_gpu_and_only_on_cuda(profile: str) -> None:
    smoke = ("--workflow-profile", f"profiles/{profile}", "--configfile", "config/smoke.yaml")
    asked = {device: requests(*smoke, "--config", f"device={device}") for device in ("cuda", "cpu")}
    assert {rule for rule, numbers in asked["cuda"].items() if numbers.get("gpu")} == WITH_NETWORKS | {"try_settings"}
    assert not [rule for rule, numbers in asked["cpu"].items() if numbers.get("gpu")]
    for rule in asked["cpu"].keys() - {"all", "tune"}:
        assert asked["cpu"][rule]["mem_mb"] >= 500 and asked["cpu"][rule]["runtime"] >= 5


def test_memory_and_run_time_grow_with_the_attempt() -> None:
    smoke = ("--cores", "1", "--configfile", "config/smoke.yaml", "--config", "device=cpu")
    first, third = requests(*smoke), requests(*smoke, "--attempt", "3")
    for rule in first.keys() - {"all", "tune"}:
        for amount in ("mem_mb", "runtime"):
            assert third[rule][amount] == 3 * first[rule][amount], (rule, amount)


def tool(folder: Path, name: str, script: str) -> dict[str, str]:
    """Environment in which a scheduler's command is a script of ours."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("squeue", "status"),
    [
        ("echo COMPLETED", "success"),
        ("echo PENDING", "running"),
        ("echo RUNNING", "running"),
        ("echo NODE_FAIL", "failed"),
        ("echo TIMEOUT", "failed"),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "failed"),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "running"),
    ],
)
def test_generic_status_believes_only_what_is_certain(squeue: str, status: str, tmp_path: Path) -> None:
    environment = tool(tmp_path, "squeue", squeue)
    script = ROOT / "profiles" / "generic" / "status.sh"
    done = subprocess.run([script, "12"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{status}\n"


@pytest.mark.parametrize(("gpus", "expected"), [("0", "--partition=cpu"), ("2", "--partition=gpu --gpus=2")])
def test_generic_submission_asks_for_what_the_rule_states(gpus: str, expected: str, tmp_path: Path) -> None:
    environment = tool(tmp_path, "sbatch", 'echo "$@"')
    script = ROOT / "profiles" / "generic" / "submit.sh"
    arguments = ["finetune_method", "4", "8000", "120", gpus, "/a b/job.sh"]
    done = subprocess.run(
        [script, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert f" --cpus-per-task=4 --mem=8000 --time=120 {expected} /a b/job.sh\n" in done.stdout
    assert ("--gpus" in done.stdout) == (gpus != "0")


def test_keeper_kills_orphans_and_nothing_else(tmp_path: Path) -> None:
    """A daemon that detaches itself twice dies with its keeper; a bystander does not."""
    bystander = subprocess.Popen(["sleep", "60"])
    pids = tmp_path / "pids"
    daemon = f"setsid sh -c 'sleep 61 & echo $! >> {pids}; echo $$ >> {pids}; wait' & sleep 0.2"
    keeper = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "clusters" / "keeper.py", "sh", "-c", daemon], stdin=subprocess.PIPE
    )
    try:
        while not pids.exists() or len(pids.read_text().split()) < 2:
            assert keeper.poll() is None
        processes = [int(pid) for pid in pids.read_text().split()]
        assert all(Path(f"/proc/{pid}").exists() for pid in processes)
        assert keeper.stdin is not None
        keeper.stdin.close()
        assert keeper.wait(timeout=30) == 0
        assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
