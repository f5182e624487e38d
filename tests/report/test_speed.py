"""The table of costs: counts that can be checked by hand, from the files that jobs leave."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conffusion.report.speed import RunFolder, job_costs, write_speed_table
from conffusion.store import write_json
from tests.report.tree import Numbers, steady, write_benchmark, write_numbers

TASK = "super_resolution"
SIZES = {"finetune": 5, "selection": 10, "calibration": 7, "test": 11}
COLUMNS = [
    "rule", "task", "method", "n_variants", "forward_passes_per_image", "seconds_per_image", "jobs", "images",
    "forward_passes", "images_per_second", "wall_seconds", "longest_seconds", "cpu_seconds", "gpu_seconds",
    "max_memory_mb",
]  # fmt: skip


def folder(root: Path, **fields: Any) -> Path:
    return write_numbers(root, Numbers(steady(0.1, 6), steady(0.2, 6), **fields))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """DM_SB in shards of the split test, and N-Conffusion with two replicates, on a GPU; the rest on the CPU."""
    rows = [f"{split}{k},g,x,{split}" for split, size in SIZES.items() for k in range(size)]
    (tmp_path / "splits.csv").write_text("\n".join(["image_id,group,source,split", *rows]))
    for k, seconds in ((0, 60.0), (1, 40.0)):
        name = f"test-0000{k}-of-00002"
        write_benchmark(tmp_path, f"sample_variants/{TASK}-{name}", seconds, memory="812.3" if k else "790")
        manifest = tmp_path / TASK / "variants" / "test" / f"shard-{name.removeprefix('test-')}.json"
        write_json(manifest, {"attributes": {"forward_passes_per_image": 160 + 10 * k}})
    for method_run, seconds in (("n_conffusion", 50.0), ("n_conffusion-r1", 30.0)):
        write_benchmark(tmp_path, f"finetune_method/{TASK}-{method_run}", seconds)
        write_benchmark(tmp_path, f"trace_candidates/{TASK}-{method_run}", 3.0)
        write_benchmark(tmp_path, f"predict_bounds/{TASK}-{method_run}", 4.0)
        scores = [{"step": step, "protocol": protocol} for step in (80, 100) for protocol in ("paper", "guaranteed")]
        (tmp_path / TASK / method_run).mkdir(parents=True)
        table = pd.concat([pd.DataFrame({"step": [50, 100], "loss": 0.1}), pd.DataFrame(scores)])
        table.to_csv(tmp_path / TASK / method_run / "training.csv", index=False)
    write_benchmark(tmp_path, f"extract_bounds/{TASK}-test", 2.0)
    write_benchmark(tmp_path, "train_prior/sr3_faces", 20.0)
    write_benchmark(tmp_path, "split_images", 0.2, memory="-")
    write_benchmark(tmp_path, f"calibrate_method/{TASK}-dm_sb", 0.5, memory="NA")
    write_benchmark(tmp_path, f"calibrate_method/{TASK}-n_conffusion", 0.7)
    names = [file.relative_to(tmp_path / "benchmarks").with_suffix("").as_posix()
             for file in (tmp_path / "benchmarks").rglob("*.tsv")]  # fmt: skip
    gpus = {name: 2 if name.startswith("finetune") else int(name.startswith("sample")) for name in names}
    return RunFolder(tmp_path, batch_size=32, prior_images={"sr3_faces": 768000}, gpus=gpus)


def row(table: pd.DataFrame, rule: str) -> dict[str, Any]:
    (found,) = table[table["rule"] == rule].to_dict("records")
    return found


def test_jobs_are_counted_by_what_they_left(run: RunFolder) -> None:
    costs = job_costs(run)
    sampling = row(costs, "sample_variants")
    assert (sampling["task"], sampling["method"], sampling["jobs"], sampling["images"]) == (TASK, "dm_sb", 2, 11)
    assert sampling["forward_passes"] == 5 * 160 + 6 * 170  # 11 images in shards of 5 and 6
    assert (sampling["wall_seconds"], sampling["longest_seconds"], sampling["cpu_seconds"]) == (100, 60, 200)
    assert sampling["images_per_second"] == pytest.approx(0.11)
    assert (sampling["gpu_seconds"], sampling["max_memory_mb"]) == (100, 812.3)
    finetuning = row(costs, "finetune_method")
    assert (finetuning["method"], finetuning["jobs"], finetuning["gpu_seconds"]) == ("n_conffusion", 2, 2 * 80)
    assert finetuning["forward_passes"] == 2 * (100 * 32 + 2 * 7 + 2 * 10)  # steps, and checkpoints on their splits
    assert row(costs, "trace_candidates")["forward_passes"] == 2 * 2 * (7 + 11)
    assert row(costs, "predict_bounds")["forward_passes"] == 2 * 2 * (10 + 7 + 11)
    assert (row(costs, "extract_bounds")["images"], row(costs, "extract_bounds")["forward_passes"]) == (11, 0)
    assert row(costs, "train_prior")["forward_passes"] == 768000
    calibration = row(costs, "calibrate_method")
    assert (calibration["task"], calibration["method"], calibration["jobs"]) == ("", "", 2)
    assert calibration["max_memory_mb"] == 400 and calibration["gpu_seconds"] == 0
    assert pd.isna(calibration["images"]) and pd.isna(row(costs, "split_images")["max_memory_mb"])


def test_what_cannot_be_told_is_empty(run: RunFolder) -> None:
    (run.path / TASK / "n_conffusion-r1" / "training.csv").unlink()
    next(run.path.rglob("shard-00001-of-00002.json")).write_text("{}")
    costs = job_costs(RunFolder(run.path, run.batch_size, {}, {}))
    for rule in ("finetune_method", "sample_variants", "trace_candidates", "train_prior"):
        assert pd.isna(row(costs, rule)["forward_passes"]) and pd.isna(row(costs, rule)["images_per_second"])
    assert costs["gpu_seconds"].isna().all() and row(costs, "finetune_method")["wall_seconds"] == 80
    (run.path / "splits.csv").unlink()
    assert pd.isna(row(job_costs(run), "predict_bounds")["images"])


def test_what_an_image_costs_comes_first(run: RunFolder, tmp_path: Path) -> None:
    folders = [
        folder(tmp_path, method="dm_sb", n_variants=20, passes=165, seconds=0.4),
        folder(tmp_path, seconds=0.002),
        folder(tmp_path, seconds=0.004, protocol="paper"),
        folder(tmp_path, method="resnext", seconds=0.001),  # its benchmark file is gone
    ]
    write_speed_table(folders, run, tmp_path / "speed.csv")
    table = pd.read_csv(tmp_path / "speed.csv")
    assert list(table.columns) == COLUMNS
    assert list(table["rule"]) == [
        "sample_variants", "predict_bounds", "predict_bounds", "finetune_method", "train_prior", "trace_candidates",
        "extract_bounds", "calibrate_method", "split_images",
    ]  # fmt: skip
    assert list(table["method"][:3]) == ["dm_sb", "n_conffusion", "resnext"]
    assert list(table["forward_passes_per_image"][:3]) == [165, 1, 1]
    np.testing.assert_allclose(table["seconds_per_image"][:3], [0.4, 0.003, 0.001])
    assert table["seconds_per_image"][3:].isna().all() and pd.isna(table.loc[2, "jobs"])
    text = (tmp_path / "speed.md").read_text()
    assert "DM_SB (J = 20)" in text and "In all 13 jobs, 3.6 min of wall time" in text and "4.3 min of GPU time" in text


def test_note_on_gpu_time_is_honest(run: RunFolder, tmp_path: Path) -> None:
    folders = [folder(tmp_path)]
    write_speed_table(folders, RunFolder(run.path, 32, {}, {}), tmp_path / "none.csv")
    assert "an unknown GPU time" in (tmp_path / "none.md").read_text()
    gpus = {name: 1 for name in run.gpus if name != "split_images"}
    write_speed_table(folders, RunFolder(run.path, 32, {}, gpus), tmp_path / "some.csv")
    assert "at least 3.6 min of GPU time" in (tmp_path / "some.md").read_text()
