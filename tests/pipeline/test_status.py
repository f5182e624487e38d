"""The state of a run from its results folder: counts, rates and times left that can be checked by hand."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from conffusion.cli import main
from conffusion.core.progress import Reading
from conffusion.errors import ConfigError
from conffusion.pipeline.plan import Plan, config_text
from conffusion.pipeline.planned import PlannedJob, planned_jobs, sampled_splits
from conffusion.pipeline.records import JobRecord
from conffusion.pipeline.status import RunStatus, StageStatus, read_status
from conffusion.pipeline.status_text import status_text
from tests.pipeline.configs import TASK, config

NOW = 1_000_000.0
SIZES = {"finetune": 40, "selection": 40, "calibration": 40, "test": 80}
SHARD = "sample_variants/super_resolution-test-00001-of-00004"


class Run:
    """A run of one task and three methods on disk, 20 images a shard, to be finished job by job."""

    def __init__(self, folder: Path, **overlay: Any) -> None:
        settings: dict[str, Any] = {
            "run": "try", "tasks": {"inpainting": None}, "methods": ["dm_sb", "dm_sba", "n_conffusion"],
            "dataset": {"splits": SIZES}, "sampling": {"images_per_shard": 20}, **overlay,
        }  # fmt: skip
        self.folder, self.plan = folder / "results" / "try", Plan(config(**settings))
        self.jobs = {job.name: job for job in planned_jobs(self.plan, SIZES)}
        self.write("config.yaml", config_text(self.plan.config))

    def write(self, path: str, text: str = "") -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def finish(self, seconds: float | None, *rules: str, match: str = "") -> None:
        """All jobs of some rules have been done, each in so many seconds; without seconds no benchmark is left."""
        for job in self.jobs.values():
            if job.rule in rules and match in job.name:
                self.write(job.output, config_text(self.plan.config) if job.rule == "save_config" else "")
                if seconds is not None:
                    self.write(f"benchmarks/{job.name}.tsv", f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t400\n")

    def record(self, name: str, **fields: Any) -> None:
        rule, _, rest = name.partition("/")
        record = JobRecord(name, f"logs/{rule}/{rest}.log", "node1", 77, NOW - 30, NOW - 5)
        self.write(f"jobs/{name}.json", json.dumps(asdict(replace(record, **fields))))

    def status(self) -> RunStatus:
        return read_status(self.folder, clock=lambda: NOW)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def stage(status: RunStatus, name: str, split: str = "") -> StageStatus:
    (found,) = [one for one in status.stages if (one.stage, one.split) == (name, split)]
    return found


def test_run_that_has_just_begun(run: Run) -> None:
    status = run.status()
    assert (status.run, status.done, status.total) == ("try", 1, len(run.jobs))
    assert (status.running, status.failures, status.gpus, status.seconds_left) == ((), (), {}, None)
    assert status.untimed["sample_variants"] == 10 and status.untimed["finetune_method"] == 2
    text = status_text(status)
    assert f"1 of {len(run.jobs)} jobs done, 0 running" in text and "no job runs" in text
    assert "sample_variants (10)" in text


def test_shards_are_counted_by_split_and_timed_by_the_finished_ones(run: Run) -> None:
    run.finish(30.0, "sample_variants", match="-selection-")
    run.finish(10.0, "sample_variants", match="-test-00000-")
    status = run.status()
    test, selection = stage(status, "sample_variants", "test"), stage(status, "sample_variants", "selection")
    assert (selection.done, selection.total, selection.work_done) == (2, 2, 40)
    assert (test.done, test.total, test.work_done, test.work_total, test.unit) == (1, 4, 20, 80, "images")
    per_image = (30 + 30 + 10) / 60
    assert test.seconds_per_unit == pytest.approx(per_image)
    assert test.seconds_left == pytest.approx(60 * per_image)
    assert status.job_seconds_left == pytest.approx((60 + 40 + 40) * per_image)  # finetune and calibration too
    assert status.n_timed == 3


def test_running_jobs_count_by_their_own_progress(run: Run) -> None:
    run.finish(30.0, "sample_variants", match="-test-00000-")
    run.record(SHARD, progress=Reading("sampling", 100, 400, "variants", 20.0))
    run.record(SHARD.replace("00001-", "00002-"), started=NOW - 10)
    status = run.status()
    test = stage(status, "sample_variants", "test")
    assert (test.running, test.work_done) == (2, 20 + 20 * 0.25)
    assert test.rate == pytest.approx(
        20 * 5 / 400 + 20 / 30
    )  # images/s of the first by itself, of the second by others
    left = {job.record.name: job.seconds_left for job in status.running}
    assert list(left.values()) == [pytest.approx(60 - 5), pytest.approx(30 - 10)]  # heard of 5 s ago; started 10 s ago
    assert test.seconds_left == pytest.approx(55 + 20 + 30)
    assert status.seconds_left == pytest.approx(status.job_seconds_left / 2)
    text = status_text(status)
    assert "sampling 100/400 variants (25 %), 5 variants/s, 30s so far, 55s left" in text
    assert "with 2 job(s) at a time" in text


def test_nothing_takes_less_than_the_longest_running_job(run: Run) -> None:
    run.finish(1.0, *{job.rule for job in run.jobs.values() if job.rule != "finetune_method"})
    run.record("finetune_method/super_resolution-dm_sba", progress=Reading("", 10, 400, "steps", 10.0))
    run.record("finetune_method/super_resolution-n_conffusion", progress=Reading("", 399, 400, "steps", 10.0))
    assert run.status().seconds_left == pytest.approx(390 - 5)


def test_rule_without_a_finished_job_is_timed_by_a_running_one(run: Run) -> None:
    run.record("finetune_method/super_resolution-dm_sba", progress=Reading("fine-tuning", 100, 400, "steps", 25.0))
    finetuning = stage(run.status(), "finetune_method")
    assert finetuning.seconds_per_unit == pytest.approx((30 + 75 - 5) / 400)
    assert finetuning.seconds_left == pytest.approx((75 - 5) + 400 * (100 / 400))
    assert finetuning.work_done == 100 and finetuning.work_total == 800


def test_shard_without_a_benchmark_is_timed_by_its_manifest(run: Run) -> None:
    job = run.jobs[SHARD]
    run.write(job.output, json.dumps({"attributes": {"seconds_per_image": 0.25}}))
    assert stage(run.status(), "sample_variants", "test").seconds_per_unit == pytest.approx(0.25)


def test_sizes_come_from_the_split_once_it_is_made(run: Run) -> None:
    rows = "".join(f"a{k},a{k},x,test\n" for k in range(100)) + "b,b,x,selection\n"
    run.write("splits.csv", "image_id,group,source,split\n" + rows)
    assert stage(run.status(), "sample_variants", "test").work_total == 100


def test_gpus_in_use_are_listed_by_host(run: Run) -> None:
    names = [SHARD, SHARD.replace("00001-", "00002-"), SHARD.replace("00001-", "00003-"), "extract_bounds/x"]
    for name, host, gpus in zip(names, ["node1", "node2", "node1", "node1"], [["10"], ["0"], ["2"], []], strict=True):
        run.record(name, host=host, gpus=gpus, slurm_job="4711")
    run.record("finetune_method/super_resolution-dm_sba", gpus=None)
    status = run.status()
    assert status.gpus == {"node1": ("2", "10"), "node2": ("0",)}
    text = status_text(status)
    assert "GPUs in use: node1: 2, 10; node2: 0" in text and "GPU 0, Slurm job 4711" in text
    assert "waits for a GPU, 30s so far" in text


def test_failures_come_with_the_end_of_their_logs_the_latest_first(run: Run) -> None:
    run.record(SHARD, state="failed", beat=NOW - 100, message="StoreError: images/test.zarr: is truncated")
    run.write("logs/" + SHARD + ".log", "".join(f"line {k}\n" for k in range(2000)) + "\n")
    run.record("finetune_method/super_resolution-dm_sba", beat=NOW - 121)  # silent on another machine
    status = run.status()
    assert [failure.died for failure in status.failures] == [False, True]
    assert status.running == ()
    assert status.failures[0].log_lines == tuple(f"line {k}" for k in range(1995, 2000))
    text = status_text(status)
    assert "StoreError: images/test.zarr: is truncated" in text and "      line 1999" in text
    assert "finetune_method/super_resolution-dm_sba on node1, process 77: died without a message" in text


def test_process_that_is_gone_is_not_running(run: Run) -> None:
    job = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run.record(SHARD, host=socket.gethostname(), pid=job.pid)
    assert [one.record.pid for one in run.status().running] == [job.pid]
    job.kill()
    job.wait()
    status = run.status()
    assert status.running == () and [failure.died for failure in status.failures] == [True]


def test_records_of_a_former_plan_are_left_out_and_those_of_other_targets_stay(run: Run) -> None:
    run.record("sample_variants/super_resolution-test-00000-of-00009", state="failed")
    run.record("try_settings/super_resolution-resnext-3", gpus=["1"])
    status = run.status()
    assert status.failures == () and [job.record.rule for job in status.running] == ["try_settings"]


def test_finished_run_is_complete(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.finish(2.0, *{job.rule for job in run.jobs.values()})
    status = run.status()
    assert status.is_complete and status.job_seconds_left == 0 and not status.untimed
    assert main(["status", str(run.folder), "--watch", "1000"]) == 0  # returns at once
    printed = capsys.readouterr().out
    assert (
        f"{len(run.jobs)} of {len(run.jobs)} jobs done, 0 running" in printed and "left" not in printed.split("\n")[1]
    )


def test_machines_get_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.record(SHARD, host="node1", beat=4e9, progress=Reading("sampling", 100, 400, "variants", 20.0))
    assert main(["status", str(run.folder), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["total"] == len(run.jobs) and values["is_complete"] is False
    assert values["running"][0]["record"]["progress"]["done"] == 100


def test_watching_goes_on_until_all_is_done(run: Run) -> None:
    command = [sys.executable, "-m", "conffusion.cli", "status", str(run.folder), "--watch", "0.05"]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert watcher.stdout is not None
    assert "1 of" in watcher.stdout.readline()
    run.finish(None, *{job.rule for job in run.jobs.values()})
    assert watcher.wait(timeout=60) == 0
    assert f"{len(run.jobs)} of {len(run.jobs)} jobs done" in watcher.stdout.read()


def test_folder_of_no_run_is_refused(tmp_path: Path, run: Run) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: holds no config\.yaml"):
        read_status(tmp_path / "nowhere")
    run.write("config.yaml", yaml.safe_dump({"run": "try"}))
    with pytest.raises(ConfigError, match="seed: is missing"):
        run.status()


# ---- the planned jobs themselves; that they are Snakemake's is tested with the workflow


def names(jobs: list[PlannedJob]) -> list[str]:
    return [job.name for job in jobs]


def test_only_what_is_needed_is_sampled(tmp_path: Path) -> None:
    assert sampled_splits(Run(tmp_path).plan) == ["finetune", "selection", "calibration", "test"]
    assert sampled_splits(Run(tmp_path, methods=["dm_sb"]).plan) == ["selection", "calibration", "test"]
    assert sampled_splits(Run(tmp_path, methods=["dm_sba"]).plan) == ["finetune"]
    assert sampled_splits(Run(tmp_path, methods=["resnext"]).plan) == []
    assert "prepare_images/super_resolution-images-finetune" not in Run(tmp_path, methods=["dm_sb"]).jobs


def test_priors_and_replicates_are_planned(tmp_path: Path) -> None:
    run = Run(tmp_path, priors_dir=None, replicates=2, methods=["n_conffusion"])
    assert run.jobs["train_prior/sr3_faces"].work == 12000
    assert {"finetune_method/super_resolution-n_conffusion", "finetune_method/super_resolution-n_conffusion-r1"} <= set(
        run.jobs
    )
    assert "assess_validity/super_resolution-n_conffusion-r1" not in run.jobs


def test_every_job_has_a_name_and_a_file_of_its_own(run: Run) -> None:
    jobs = planned_jobs(run.plan, SIZES)
    assert len({job.name for job in jobs}) == len({job.output for job in jobs}) == len(jobs)
    assert TASK in names(jobs)[2]
