"""The workflow on a real Slurm of two nodes: to its end, by both profiles, and with a node that dies in mid-job."""

import csv
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.clusters.two_nodes import NODES, TwoNodes, lacking
from tests.test_workflow_end_to_end import ROOT, TASK, Workflow, check_contract, set_up

pytestmark = [pytest.mark.system, pytest.mark.skipif(bool(lacking()), reason=lacking() or "runs")]

METHODS = ["dm_sb", "n_conffusion"]
SMALL = {
    "dataset": {"splits": {"finetune": 32, "selection": 32, "calibration": 64, "test": 32}},
    "sampling": {"images_per_shard": 16},
    "validity": {"calibration_sizes": [20], "n_draws": 50},
}
MEASURED = re.compile(r"time per image: \S+ times")  # in a claim's details


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[TwoNodes]:
    with TwoNodes(tmp_path / "slurm") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """For the workflow, beside the cluster's own."""
    (tmp_path / "workflow").mkdir()
    return tmp_path / "workflow"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """Tables of the small run, made on this machine without a cluster."""
    workflow = set_up(tmp_path_factory.mktemp("undisturbed"), [TASK], METHODS, SMALL)
    outcome = workflow.snakemake("tables", device="cpu")
    assert outcome.code == 0, outcome.text
    return workflow


@contextmanager
def running(cluster: TwoNodes, workflow: Workflow, profile: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Snakemake, which sends its jobs to the cluster; what it prints goes to printed.txt. It ends with the block."""
    with (workflow.root / "printed.txt").open("w") as printed:
        snakemake = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments, "--nocolor", "--workflow-profile", f"profiles/{profile}",
             "--configfile", f"config/{workflow.overlay}.yaml", "pruned.yaml"],
            cwd=workflow.root, env={**cluster.environment, "OMP_NUM_THREADS": "1"}, stdout=printed,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    try:
        yield snakemake
    finally:
        if snakemake.poll() is None:
            snakemake.kill()
            snakemake.wait()


def run(cluster: TwoNodes, workflow: Workflow, profile: str, *arguments: str) -> tuple[int, str]:
    """The same, to its end: exit code and what was printed."""
    with running(cluster, workflow, profile, *arguments) as snakemake:
        code = snakemake.wait()
    return code, (workflow.root / "printed.txt").read_text()


def jobs_of(cluster: TwoNodes, rule: str) -> list[dict[str, str]]:
    return [job for job in cluster.jobs() if job["Comment"].startswith(f"rule_{rule}")]


def tables(workflow: Workflow) -> dict[str, list[dict[str, str]]]:
    """Rows of the tables but for measured times."""
    found = {}
    for path in sorted((workflow.run / "tables").glob("*.csv")):
        if not path.name.startswith("speed"):
            rows = list(csv.DictReader(MEASURED.sub("", path.read_text()).splitlines()))
            found[path.name] = [{key: row[key] for key in row if key != "seconds_per_image"} for row in rows]
    assert {"claims.csv", f"{TASK}.csv", "validity.csv"} <= found.keys()
    return found


def test_smoke_configuration_runs_to_its_end_on_both_nodes(cluster: TwoNodes, folder: Path) -> None:
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    tasks, methods = list(values["tasks"]), values["methods"]
    workflow = set_up(folder, tasks, methods, {})
    code, text = run(cluster, workflow, "slurm", "all", "--config", "device=cpu")
    assert code == 0, text
    check_contract(workflow.run, tasks, methods)
    jobs = cluster.jobs()
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    assert {job["NodeList"] for job in jobs} == set(NODES)
    assert {job["Partition"] for job in jobs} == {"cpu"}
    assert not [job for job in jobs if "gpu" in str(job.get("TresPerJob"))]
    assert len(jobs_of(cluster, "sample_variants")) == 8


def test_jobs_with_networks_ask_for_a_gpu_and_retried_ones_for_more_memory_and_time(
    cluster: TwoNodes, folder: Path
) -> None:
    """The GPUs are make-believe, so the first job on one says that torch sees none."""
    workflow = set_up(folder, [TASK], ["dm_sb"], SMALL)
    shard = f"results/smoke/{TASK}/variants/test/shard-00000-of-00002.json"
    code, text = run(cluster, workflow, "slurm", shard, "--jobs", "2")
    assert code != 0 and cluster.jobs() == []
    assert "--jobs = 2: the Slurm executor cannot hold back jobs of an array" in text
    code, text = run(cluster, workflow, "slurm", shard, "--retries", "1", "--config", "device=cuda")
    assert code != 0
    assert "torch sees no CUDA device" in text
    first, second = sorted(jobs_of(cluster, "sample_variants"), key=lambda job: int(job["JobId"]))
    for job in (first, second):
        assert (job["JobState"], job["Partition"], job["TresPerJob"]) == ("FAILED", "gpu", "gres:gpu:1")
    assert (first["TimeLimit"], second["TimeLimit"]) == ("02:00:00", "04:00:00")
    assert float(second["MinMemoryNode"].strip("MG")) == 2 * float(first["MinMemoryNode"].strip("MG"))
    for job in jobs_of(cluster, "split_images") + jobs_of(cluster, "prepare_images"):
        assert (job["JobState"], job["Partition"], job.get("TresPerJob")) == ("COMPLETED", "cpu", None)


def test_generic_profile_gives_the_same_tables(cluster: TwoNodes, undisturbed: Workflow, folder: Path) -> None:
    workflow = set_up(folder, [TASK], METHODS, SMALL)
    target = f"results/smoke/{TASK}/dm_sb/guaranteed/calibration.json"
    code, text = run(cluster, workflow, "generic", target, "--config", "device=cpu")
    assert code == 0, text
    assert (workflow.root / target).read_text() == (undisturbed.root / target).read_text()
    jobs = cluster.jobs()
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    assert {"split_images", "prepare_images", "sample_variants", "calibrate_method"} <= {job["JobName"] for job in jobs}


def test_death_of_a_node_in_mid_job_changes_no_table(cluster: TwoNodes, undisturbed: Workflow, folder: Path) -> None:
    workflow = set_up(folder, [TASK], METHODS, SMALL)
    with running(cluster, workflow, "slurm", "tables", "--config", "device=cpu") as snakemake:
        victim = node_that_runs(cluster, "finetune_method.py", snakemake)
        cluster.kill_node(victim)
        code = snakemake.wait()
    text = (workflow.root / "printed.txt").read_text()
    assert code == 0, text
    (job,) = jobs_of(cluster, "finetune_method")
    (survivor,) = set(NODES) - {victim}
    assert (job["JobState"], job["Restarts"], job["NodeList"]) == ("COMPLETED", "1", survivor)
    shards = jobs_of(cluster, "sample_variants")
    assert len(shards) == 8 and all("ArrayTaskId" in shard for shard in shards)
    assert tables(workflow) == tables(undisturbed)
    assert not list(workflow.run.rglob("*.tmp"))


def node_that_runs(cluster: TwoNodes, script: str, snakemake: "subprocess.Popen[str]", seconds: float = 600) -> str:
    """Wait for the process of a script and say on which node it is."""
    end = time.monotonic() + seconds
    while snakemake.poll() is None and time.monotonic() < end:
        for node in NODES:
            if any(script in command for command in cluster.commands(node)):
                return node
        time.sleep(0.2)
    raise AssertionError(f"no node ever ran {script}")
