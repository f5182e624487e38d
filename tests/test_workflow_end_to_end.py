"""The workflow from configuration to report: complete, idle when repeated, and redoing only what a change concerns."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from conffusion.config import Config, load_config
from conffusion.core.device import Device
from conffusion.errors import CheckpointError
from conffusion.models.checkpoint import load_checkpoint
from conffusion.models.networks import load_prior
from conffusion.pipeline.plan import SPLITS, Plan
from conffusion.pipeline.planned import planned_jobs
from conffusion.pipeline.records import gpus_held
from conffusion.pipeline.status import read_status
from conffusion.store import open_store
from conffusion.training.priors import PriorJob, architecture_of, write_prior

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "rules", "workflow_scripts", "config", "profiles", "envs")
TASK = "super_resolution"
METHODS = ["dm_sb", "dm_sba", "n_conffusion"]
PROTOCOLS = ["paper", "guaranteed"]
PRUNED = {
    "dataset": {"splits": {"finetune": 32, "selection": 32, "calibration": 64, "test": 32}},
    "sampling": {"images_per_shard": 32},
}
REPORTING = {  # rules that only gather and show results
    "tabulate_claims", "tabulate_speed", "tabulate_task", "plot_examples", "plot_methods", "plot_position_risk",
    "plot_risk_curve", "plot_size_risk", "plot_stratified_risk", "plot_training", "plot_validity", "plot_bounds",
    "gather_validity", "write_report",
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What Snakemake returned and printed."""

    code: int
    text: str

    @property
    def jobs(self) -> dict[str, int]:
        """Rule to number of jobs: of a dry run those in its table, else those that have finished."""
        _, _, table = self.text.partition("Job stats:")
        rows = re.findall(r"^(\w+) +(\d+)$", table.partition("\n\n")[0], flags=re.MULTILINE)
        if rows:
            return {rule: int(count) for rule, count in rows if rule not in ("total", "all")}
        return dict(Counter(re.findall(r"^[\d:]+ +\d+/\d+  (\w+)", self.text, flags=re.MULTILINE)))


@dataclass(frozen=True)
class Workflow:
    """A working copy of the workflow, without the package, which is installed."""

    root: Path
    overlay: str = "smoke"

    @property
    def run(self) -> Path:
        return self.root / "results" / self.overlay

    def snakemake(self, *arguments: str, **changes: Any) -> Outcome:
        """Run Snakemake on the overlay, with changes to the configuration laid over it."""
        overlay = self.root / "changes.yaml"
        overlay.write_text(yaml.safe_dump(changes))
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments, "--cores", "2", "--nocolor", "--configfile",
             f"config/{self.overlay}.yaml", "pruned.yaml", overlay.name],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return Outcome(done.returncode, done.stdout)

    def planned(self, **changes: Any) -> dict[str, int]:
        """Jobs of a dry run."""
        outcome = self.snakemake("--dry-run", **changes)
        assert outcome.code == 0, outcome.text
        return outcome.jobs

    def files(self) -> dict[str, int]:
        """All result files with their time of change."""
        kept = (path for path in self.run.rglob("*") if path.is_file() and path.name != ".snakemake_timestamp")
        return {path.relative_to(self.run).as_posix(): path.stat().st_mtime_ns for path in kept}


def set_up(root: Path, tasks: list[str], methods: list[str], pruned: dict[str, Any]) -> Workflow:
    """The workflow's own files, its default configuration cut to some tasks and methods, and priors for these."""
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, root / part)
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    values["tasks"] = {task: values["tasks"][task] for task in tasks}
    (root / "config.yaml").write_text(yaml.safe_dump({**values, "methods": methods}, sort_keys=False))
    (root / "pruned.yaml").write_text(yaml.safe_dump(pruned))
    config = load_config(root / "config.yaml")
    plan = Plan(config)
    for name in {plan.prior_name(task, method_run) for task in tasks for method_run in plan.method_runs}:
        provide_prior(config, name, root / "priors" / f"{name}.safetensors")
    return Workflow(root)


def provide_prior(config: Config, name: str, output: Path) -> None:
    """The shipped prior, or one that was hardly trained where none of this architecture is shipped."""
    prior, shipped = config.priors[name], ROOT / "priors" / f"{name}.safetensors"
    try:
        load_prior(shipped, architecture_of(prior))
    except CheckpointError:
        torch.set_num_threads(1)
        assert prior.training is not None
        training = prior.training.model_copy(update={"n_images": 32, "n_steps": 4, "batch_size": 8})
        short = prior.model_copy(update={"training": training})
        degradation = config.tasks[prior.task].degradation if prior.task else {}
        cpu = Device(torch.device("cpu"), bfloat16=False)
        write_prior(PriorJob(name, short, degradation, config.image_size, 1), cpu, output=output)
    else:
        output.parent.mkdir(exist_ok=True)
        shutil.copy(shipped, output)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """One task and three methods, computed."""
    workflow = set_up(tmp_path_factory.mktemp("workflow"), [TASK], METHODS, PRUNED)
    outcome = workflow.snakemake()
    assert outcome.code == 0, outcome.text
    return workflow


@pytest.fixture
def copied(finished: Workflow, tmp_path: Path) -> Workflow:
    """The finished run, to be changed; times of change are kept, so nothing looks outdated."""
    shutil.copytree(finished.root, tmp_path / "workflow", symlinks=True)
    return Workflow(tmp_path / "workflow")


# ---- what a run leaves


def columns_and_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or []), list(reader)


def check_contract(run: Path, tasks: list[str], methods: list[str]) -> None:
    """Every file of the contract exists, and its stores, records and tables have the contract's names."""
    assert load_config(run / "config.yaml").run == run.name
    columns, rows = columns_and_rows(run / "splits.csv")
    assert columns == ["image_id", "group", "source", "split"]
    assert {row["split"] for row in rows} == {"finetune", "selection", "calibration", "test"}
    for task in tasks:
        for split in ("finetune", "selection", "calibration", "test"):
            assert set(open_store(run / task / "images" / f"{split}.zarr").arrays) == {"target", "condition", "mask"}
        for method in methods:
            for protocol in PROTOCOLS:
                check_method_run(run / task / method / protocol, has_network=method != "dm_sb")
        check_task_table(run / "tables" / f"{task}.csv", methods)
    variants = list((run / tasks[0] / "variants").rglob("*.zarr"))
    assert variants
    assert open_store(variants[0])["variants"].ndim == 5
    check_table(run / "tables" / "claims.csv", ["claim", "task", "statistic", "value", "ci_low", "ci_high", "verdict"])
    check_table(run / "tables" / "validity.csv", [
        "task", "method", "protocol", "bound", "family", "n", "n_draws", "violation_rate", "standard_error",
        "infeasible_rate", "interval_size_mean",
    ])  # fmt: skip
    for figure in (run / "figures").glob("*.png"):
        assert figure.stat().st_size > 5000, figure
        assert figure.with_suffix(".pdf").stat().st_size > 5000, figure
    page = (run / "report.html").read_text()
    assert len(page) > 50_000
    assert not re.search(r"""(src|href)=["'](?!data:|#|https?://|view.html")""", page)  # one self-contained page
    assert not re.search(r"""<(script|link|img)[^>]+https?://""", page)


def check_method_run(method_run: Path, *, has_network: bool) -> None:
    record = json.loads((method_run / "calibration.json").read_text())
    assert record["feasible"] == (record["risk_ucb"] <= record["alpha"])
    assert record["feasible"] or method_run.name == "paper"  # only the official grid can fail without a word
    for split in ("calibration", "test"):
        store = open_store(method_run / "bounds" / f"{split}.zarr")
        assert {"lower", "upper"} <= set(store.arrays)
    assert (method_run / "model.safetensors").is_file() == has_network


def check_table(path: Path, wanted: list[str]) -> None:
    columns, rows = columns_and_rows(path)
    assert rows
    assert [name for name in wanted if name not in columns] == []
    assert path.with_suffix(".csv").exists()


def check_task_table(path: Path, methods: list[str]) -> None:
    strata = [f"stratified_risk{kind}_{k}" for kind in ("", "_official") for k in range(1, 5)]
    check_table(path, [
        "method", "protocol", "risk", "interval_size_mean", "interval_size_median", *strata, "lambda_hat",
        "n_calibration", "n_bound", "n_test", "n_variants", "forward_passes_per_image", "seconds_per_image",
    ])  # fmt: skip
    _, rows = columns_and_rows(path)
    assert sorted((row["method"], row["protocol"]) for row in rows) == sorted(
        (m, p) for m in methods for p in PROTOCOLS
    )
    assert all(0 <= float(row["risk"]) <= 1 and float(row["interval_size_mean"]) > 0 for row in rows)
    assert path.with_suffix(".md").is_file() and path.with_suffix(".tex").is_file()


def test_run_leaves_the_files_of_the_contract(finished: Workflow) -> None:
    check_contract(finished.run, [TASK], METHODS)
    assert not list(finished.run.rglob("*.tmp"))


def test_every_job_leaves_a_log_and_a_benchmark(finished: Workflow) -> None:
    logs = {path.name.removesuffix(".log") for path in (finished.run / "logs").rglob("*.log")}
    assert {"split_images", "write_report", "n_conffusion", "calibration-00001-of-00002"} <= logs
    times = (finished.run / "benchmarks" / "finetune_method" / f"{TASK}-n_conffusion.tsv").read_text().splitlines()
    assert times[0].startswith("s\t") and len(times) == 2
    log = (finished.run / "logs" / TASK / "finetune_method" / "n_conffusion.log").read_text()
    assert "fine-tuning: 10/10 steps (100 %)" in log and "left" in log


def test_status_plans_the_jobs_that_snakemake_runs(finished: Workflow) -> None:
    """Names of planned jobs, benchmark files and records of finished jobs are the same, and every job is done."""
    plan = Plan(load_config(finished.run / "config.yaml"))
    planned = {job.name for job in planned_jobs(plan, {})}
    times = finished.run / "benchmarks"
    assert planned == {path.relative_to(times).with_suffix("").as_posix() for path in times.rglob("*.tsv")}
    assert planned == set(gpus_held(finished.run)) and set(gpus_held(finished.run).values()) == {0}
    status = read_status(finished.run)
    assert status.is_complete and (status.running, status.failures) == ((), ())
    assert status.n_timed == len(planned)


def test_speed_table_tells_passes_and_gpu_time(finished: Workflow) -> None:
    columns, rows = columns_and_rows(finished.run / "tables" / "speed.csv")
    assert {"rule", "task", "method", "forward_passes", "images_per_second", "gpu_seconds"} <= set(columns)
    (sampling,) = [row for row in rows if row["rule"] == "sample_variants"]
    settings = load_config(finished.run / "config.yaml").sampling
    n_images = sum(PRUNED["dataset"]["splits"].values())
    assert int(sampling["forward_passes"]) == n_images * settings.n_variants * settings.n_steps
    assert {float(row["gpu_seconds"]) for row in rows} == {0.0}
    assert [row["method"] for row in rows[:3]] == METHODS and all(float(row["seconds_per_image"]) for row in rows[:3])
    assert "0 s of GPU time" in (finished.run / "report.html").read_text()


def test_no_job_warns(finished: Workflow) -> None:
    logs = {path.relative_to(finished.run): path.read_text() for path in (finished.run / "logs").rglob("*.log")}
    assert [str(path) for path, text in logs.items() if "Warning" in text] == []


# ---- repetition and changes


def test_repeated_run_does_nothing(finished: Workflow) -> None:
    before = finished.files()
    outcome = finished.snakemake()
    assert outcome.code == 0
    assert "Nothing to be done" in outcome.text
    after = finished.files()
    assert {name for name in after if after[name] != before.get(name)} <= {"code.json"}


def test_change_of_the_validity_draws_concerns_the_validity_table_alone(finished: Workflow) -> None:
    jobs = finished.planned(validity={"n_draws": 60})
    assert jobs["assess_validity"] == len(METHODS)
    assert set(jobs) - {"save_config"} == {
        "assess_validity", "gather_validity", "plot_validity", "plot_bounds", "tabulate_speed", "write_report",
    }  # fmt: skip


def test_change_of_one_method_concerns_that_method_alone(finished: Workflow) -> None:
    jobs = finished.planned(finetuning={"tuned": {TASK: {"n_conffusion": {"n_steps": 30}}}})
    own = {name: count for name, count in jobs.items() if name not in REPORTING | {"save_config"}}
    assert own == {
        "finetune_method": 1, "predict_bounds": 1, "trace_candidates": 1, "calibrate_method": 1, "evaluate_method": 1,
        "assess_validity": 1,
    }  # fmt: skip


def test_change_of_alpha_keeps_images_and_variants(finished: Workflow) -> None:
    jobs = finished.planned(calibration={"alpha": 0.25})
    assert not {"split_images", "prepare_images", "sample_variants", "train_prior"} & set(jobs)
    assert jobs["finetune_method"] == 2
    assert jobs["calibrate_method"] == jobs["evaluate_method"] == 3


def test_further_replicate_leaves_the_first_alone(finished: Workflow) -> None:
    jobs = finished.planned(replicates=2)
    own = {name: count for name, count in jobs.items() if name not in REPORTING | {"save_config"}}
    assert own["finetune_method"] == own["predict_bounds"] == 2  # dm_sba-r1 and n_conffusion-r1
    assert own["calibrate_method"] == own["evaluate_method"] == 2
    assert not {"split_images", "prepare_images", "sample_variants", "extract_bounds"} & set(own)


def test_changed_report_setting_reruns_its_consequences_and_then_rests(copied: Workflow) -> None:
    before = copied.files()
    changes = {"report": {"n_bootstrap": 150}}
    outcome = copied.snakemake(**changes)
    assert outcome.code == 0, outcome.text
    assert set(outcome.jobs) == {"save_config", "tabulate_claims", "write_report"}
    after = copied.files()
    changed = {name.split("/")[0] for name in after if after[name] != before.get(name)}
    assert changed <= {"config.yaml", "code.json", "tables", "report.html", "logs", "benchmarks", "jobs"}
    assert "Nothing to be done" in copied.snakemake(**changes).text


@pytest.mark.parametrize("images", ["dataset", "faces"])
def test_run_trains_a_prior(images: str, copied: Workflow) -> None:
    training = {"images": images, "n_images": 16, "n_steps": 2, "batch_size": 4}
    target = "results/smoke/priors/sr3_faces.safetensors"
    outcome = copied.snakemake(target, priors_dir=None, priors={"sr3_faces": {"training": training}})
    assert outcome.code == 0, outcome.text
    assert outcome.jobs == {"train_prior": 1}
    assert load_checkpoint(copied.root / target)[1]["training"]["images"] == images


def test_groups_too_few_to_calibrate_stop_the_run_before_any_image_is_made(copied: Workflow) -> None:
    for k in range(60):
        path = copied.root / "photographs" / f"person{k % 12}_{k}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (k, 0, 0)).save(path)
    folder = {"path": "photographs", "group_pattern": "^(.*)_"}
    dataset = {"name": "folder", "folder": folder, "splits": dict.fromkeys(SPLITS, 0.25)}
    outcome = copied.snakemake(run="persons", dataset=dataset)
    assert outcome.code != 0
    assert "dataset.splits.selection: has 3 groups, too few for calibration.alpha and delta" in outcome.text
    assert "Traceback" not in outcome.text
    assert not (copied.root / "results" / "persons" / "splits.csv").exists()
    assert not (copied.root / "results" / "persons" / TASK).exists()


# ---- mistakes


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (
            {"calibration": {"alhpa": 0.1, "delta": 1.5}},
            ["calibration.alhpa: unknown key (did you mean 'alpha'?)", "calibration.delta = 1.5"],
        ),
        ({"methods": ["n_confusion"]}, ["did you mean 'n_conffusion'"]),
    ],
    ids=["unknown key", "unknown method"],
)
def test_wrong_configuration_stops_before_any_job(
    finished: Workflow, changes: dict[str, Any], messages: list[str]
) -> None:
    before = finished.files()
    outcome = finished.snakemake(**changes)
    assert outcome.code != 0
    assert [message for message in messages if message not in outcome.text] == []
    assert "Traceback" not in outcome.text
    assert "Job stats" not in outcome.text and "jobid" not in outcome.text
    assert finished.files() == before


def test_corrupt_shard_stops_its_job_and_nothing_looks_finished(copied: Workflow) -> None:
    shard = copied.run / TASK / "variants" / "calibration" / "shard-00001-of-00002.zarr"
    chunk = max(shard.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    target = f"results/smoke/{TASK}/dm_sb/guaranteed/bounds/calibration.json"
    outcome = copied.snakemake(target, "--forcerun", "extract_bounds")
    assert outcome.code != 0
    (line,) = {line for line in outcome.text.splitlines() if "StoreError" in line}
    assert str(chunk.relative_to(copied.root)) in line and "truncated or altered" in line
    assert "Traceback" not in outcome.text
    manifest = copied.root / target
    assert not manifest.exists()
    assert not manifest.with_suffix(".zarr").exists()
    log = copied.run / "logs" / TASK / "extract_bounds" / "calibration.log"
    assert "StoreError" in log.read_text()
    failures = read_status(copied.run).failures
    assert any("StoreError" in failure.record.message and "StoreError" in failure.log_lines[-1] for failure in failures)


# ---- everything


@pytest.mark.system
def test_complete_smoke_run(tmp_path: Path) -> None:
    """All methods and both tasks, end to end, and again."""
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    tasks, methods = list(values["tasks"]), values["methods"]
    workflow = set_up(tmp_path, tasks, methods, {})
    outcome = workflow.snakemake()
    assert outcome.code == 0, outcome.text
    check_contract(workflow.run, tasks, methods)
    assert (workflow.run / "tables" / "pretraining.csv").is_file()
    assert (workflow.run / "tables" / "speed.csv").is_file()
    assert "Nothing to be done" in workflow.snakemake().text


@pytest.mark.system
def test_networks_at_full_size_run_through_the_whole_workflow(tmp_path: Path) -> None:
    """config/paper-smoke.yaml: every network of the paper, weights filled by a rule; about 10 GB of memory and disk."""
    for part in (*PARTS, "config.yaml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    (tmp_path / "pruned.yaml").write_text("{}")
    workflow = Workflow(tmp_path, "paper-smoke")
    outcome = workflow.snakemake()
    assert outcome.code == 0, outcome.text
    check_contract(workflow.run, ["super_resolution", "inpainting"], load_config(ROOT / "config.yaml").methods)
    sides = {
        (task, method_run): open_store(workflow.run / task / method_run / "paper" / "bounds" / "test.zarr")[
            "lower"
        ].shape[-1]
        for task in ("super_resolution", "inpainting")
        for method_run in ("dm_sb", "n_conffusion", "g_conffusion", "resnext")
    }
    assert set(sides.values()) == {128, 256}
    assert [key for key, side in sides.items() if side == 256] == [
        ("inpainting", "dm_sb"), ("inpainting", "n_conffusion"), ("inpainting", "resnext"),
    ]  # fmt: skip
    assert not list(workflow.run.rglob("step-*.safetensors"))  # competing checkpoints are gone
    assert len(list(workflow.run.rglob("candidate_curves/*.npz"))) == 12
    shutil.rmtree(workflow.run)  # gigabytes
