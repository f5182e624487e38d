"""The benchmarks run, their JSON holds what the tables show, and different outputs do not pass. No time is judged."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import calibration, calibration_memory, common, data, forward, gpu, peers_calibration, predict, sampling
from conffusion.calibration import Family
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.evaluation.validity import loss_curves
from conffusion.store import write_json, write_store

Main = Callable[[Sequence[str]], int]

# Plays the official network: ours, plus an offset.
FAKE_UNET = """
from conffusion.models import UNet as Ours

class UNet(Ours):
    def __init__(self, inner_channel, norm_groups, channel_mults, attn_res, res_blocks, image_size):
        size = dict(inner_channel=inner_channel, channel_multiplier=channel_mults, res_blocks=res_blocks)
        super().__init__("sr3", dict(**size, norm_groups=norm_groups, attn_res=attn_res, image_size=image_size))

    def forward(self, x, level):
        return super().forward(x, level) + OFFSET
"""


@pytest.fixture(autouse=True)
def _keep_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def official(tmp_path: Path) -> Callable[[float], Path]:
    def make(offset: float) -> Path:
        clone = tmp_path / f"offset_{offset}"
        for folder in common.OFFICIAL_FOLDERS.values():
            (clone / folder).mkdir(parents=True)
        (clone / common.OFFICIAL_FOLDERS["sr3"] / "unet.py").write_text(f"OFFSET = {offset}\n{FAKE_UNET}")
        return clone

    return make


def run(main: Main, output: Path, *options: str, expected: int = 0) -> dict[str, Any]:
    assert main([*options, "--rounds", "2", "--output", str(output)]) == expected
    content: dict[str, Any] = json.loads(output.read_text())
    assert content["process_peak_mib"] > 0
    assert content["machine"].keys() == {"device", "device_type", "threads", "tf32", "torch", "python"}
    return content


def check_positive(row: dict[str, Any], *keys: str) -> None:
    for key in keys:
        assert math.isfinite(row[key]), key
        assert row[key] > 0, key


def test_forward_reports_our_times_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--small", "--device", "cpu", "--threads", "1")
    content = run(forward.main, tmp_path / "forward.json", *options)
    assert content["official_code"] is False
    assert {row["network"] for row in content["rows"]} == {"sr3", "palette", "adm"}
    for row in content["rows"]:
        check_positive(row, "pixels", "batch", "ours_ms")
        assert row["ratio"] is None
    assert common.ALONE in capsys.readouterr().out


def test_forward_compares_times_and_outputs(tmp_path: Path, official: Callable[[float], Path]) -> None:
    options = ("--small", "--device", "cpu", "--threads", "1", "--networks", "sr3", "--size", "16")
    content = run(forward.main, tmp_path / "same.json", *options, "--official", str(official(0.0)))
    assert content["rows"][0]["precision"] == "float32"
    for row in content["rows"]:
        assert row["pixels"] == 16
        check_positive(row, "ours_ms", "official_ms", "ratio", "ratio_to_official_float32", "tolerance")
        assert row["max_difference"] <= row["tolerance"]


def test_forward_fails_where_outputs_differ(tmp_path: Path, official: Callable[[float], Path]) -> None:
    options = ("--small", "--device", "cpu", "--threads", "1", "--networks", "sr3", "--official", str(official(0.1)))
    content = run(forward.main, tmp_path / "differ.json", *options, expected=1)
    assert content["rows"][0]["max_difference"] == pytest.approx(0.1, rel=1e-3)


def test_gpu_benchmark_runs_on_the_cpu_at_small_size(tmp_path: Path) -> None:
    content = run(gpu.main, tmp_path / "gpu.json", "--small", "--device", "cpu", "--threads", "1")
    measurements = {row["measurement"].split(",")[0] for row in content["rows"]}
    assert measurements == {"sampling", "finetuning", "one_pass"}
    for row in content["rows"]:
        check_positive(row, "items_per_s", "ms_per_item")
        assert row["side"].startswith("ours")
        assert row["ratios"] is None


def test_sampling_benchmark_compares_quantiles_and_fits_slopes(tmp_path: Path) -> None:
    rows = run(sampling.main, tmp_path / "sampling.json", "--small", "--device", "cpu", "--rounds", "1")["rows"]
    assert [row["slope"] is None for row in rows] == [True] * 4 + [False] * 2
    assert all(row["times_faster"] > 0 for row in rows[:4])


def test_predict_compares_one_pass_with_the_variants_of_dm_sb(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    output = tmp_path / "predict.json"
    assert predict.main(["--small", "--rounds", "2", "--threads", "1", "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    times = {row["side"]: row for row in content["times"]}
    for row in times.values():
        for unit in ("wall_s", "cpu_s"):
            assert 0 < row[unit]["smallest"] <= row[unit]["median"] <= row[unit]["largest"]
    assert times["DM_SB, J = 200, T = 200"]["basis"].startswith("product")
    one_pass = times[predict.SAMPLED_PASS]["cpu_s"]["smallest"]
    assert times["DM_SB, J = 200, T = 200"]["cpu_s"]["smallest"] == pytest.approx(40_000 * one_pass)
    assert {row["fast"] for row in content["ratios"]} == {
        predict.PASS, predict.MEMORY, predict.RUNTIME, predict.FILES
    }  # fmt: skip


def test_predict_names_what_the_run_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(["--run", str(tmp_path)]) == 1
    assert f"{tmp_path}: has no config.yaml" in capsys.readouterr().err


def test_a_folder_without_official_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        forward.main(["--official", str(tmp_path)])
    assert "is not a clone of https://github.com/" in capsys.readouterr().err


def test_ratios_are_taken_round_by_round() -> None:
    slow, fast = common.Measurement((4.0, 40.0, 6.0), None), common.Measurement((2.0, 20.0, 2.0), None)
    assert fast.ratio_to(slow) == 0.5
    assert fast.median == 2.0


def measure(tmp_path: Path, *options: str, expected: int = 0) -> list[dict[str, Any]]:
    """Tables of the calibration benchmark, from its JSON."""
    output = tmp_path / f"{options[0]}.json"
    assert calibration.main([*options, "--output", str(output)]) == expected
    content: dict[str, Any] = json.loads(output.read_text())
    assert content["process_peak_mib"] > 0
    assert content["machine"]["threads"] == 1
    tables: list[dict[str, Any]] = content["tables"]
    return tables


@pytest.mark.parametrize("part", [(), ("--scan-points", "6")])
def test_calibration_speed_stands_beside_scans_with_the_same_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], part: tuple[str, ...]
) -> None:
    options = ("--size", "60", "1", "16", "16", "--rounds", "1", "--grid", "0.9", "1.3", "50")
    scans, groups = measure(tmp_path, "speed", *options, *part)
    assert {row["peer"] for row in scans["rows"]} == {"official scan", "im2im-uq scan", "k-rcps RCPS"}
    for row in [*scans["rows"], *groups["rows"]]:
        check_positive(row, "ours_wall_s", "ours_cpu_s", "peer_wall_s", "peer_cpu_s", "wall_ratio", "cpu_ratio")
        assert "extrapolated from" in row["peer_times"] if part else row["peer_times"].startswith("measured")
    assert [row["agrees"] for row in scans["rows"]] == ["yes", "yes", None, None, "yes", "yes"]
    assert all(abs(row["steps_apart"]) <= 1.001 for row in scans["rows"] if row["agrees"])
    assert "our own restatement of their algorithm" in capsys.readouterr().out


def test_calibration_without_a_solution_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration.main(["speed", "--size", "20", "1", "8", "8"]) == 1
    assert "no lambda_hat" in capsys.readouterr().err


def test_a_peer_with_another_result_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = peers_calibration.Scan(torch.tensor(1.2), 3)
    monkeypatch.setattr(peers_calibration, "official_scan", lambda *_, **__: scan)
    tables = measure(tmp_path, "speed", "--size", "60", "1", "16", "16", "--rounds", "1", expected=1)
    assert [row["agrees"] for row in tables[0]["rows"]][:2] == ["no", "no"]


def test_calibration_memory_is_that_beyond_the_inputs(tmp_path: Path) -> None:
    options = ("--array-size", "40", "3", "32", "32", "--size", "40", "3", "32", "32", "--folder", str(tmp_path))
    (table,) = measure(tmp_path, "memory", *options, "--families", "additive")
    assert [row["inputs"] for row in table["rows"]] == ["in memory"] * 3 + ["zarr"] * 3
    for row in table["rows"]:
        check_positive(row, "one_bound_array_mib", "with_inputs_only_mib", "peak_mib", "beyond_mib")
        assert row["family"] == "additive"
    assert not list(tmp_path.glob("conffusion-benchmark-*"))


SPLITS = {"selection": 40, "calibration": 48, "test": 60}
POOL = (("calibration", 1), ("test", 2))  # with the seeds of their bounds


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """What the width benchmark reads of a run: bounds, images, splits and the records, of older code."""
    run = tmp_path / "results" / "tiny"
    lines = ["image_id,group,source,split"]
    for seed, (split, n_images) in enumerate(SPLITS.items()):
        lower, upper, target = calibration_memory.made_up_bounds((n_images, 1, 8, 8), seed)
        ids = [f"{split}-{index}" for index in range(n_images)]
        lines += [f"{name},{name},made up,{split}" for name in ids]
        images = {"target": target, "mask": np.ones_like(target, dtype=np.uint8)}
        write_store(run / f"denoising/images/{split}", images, ids, {"task": "denoising"})
        for protocol in ("paper", "guaranteed"):
            bounds = {"lower": lower, "upper": upper}
            write_store(run / f"denoising/dm_sb/{protocol}/bounds/{split}", bounds, ids, {})
    (run / "splits.csv").write_text("\n".join(lines) + "\n")
    record = {"alpha": 0.1, "delta": 0.1, "lambda_hat": 1.1, "risk": 0.05, "risk_ucb": 0.09, "n_images": 48}
    record |= {"n_bound": 48, "unit": "image", "ucb": "wsr", "scaling": "multiplicative"}
    for protocol in ("paper", "guaranteed"):
        write_json(run / f"denoising/dm_sb/{protocol}/calibration.json", record)
    return run


def width(tmp_path: Path, run: Path, *options: str) -> list[dict[str, Any]]:
    return measure(tmp_path, "width", "--runs", str(run), "--n", "60", "--draws", "50", *options)


def test_calibration_width_compares_with_the_protocol_of_the_paper(tmp_path: Path, finished_run: Path) -> None:
    table, verdict = width(tmp_path, finished_run)
    assert "`--fit` chooses one" in table["text"]
    rows = {row["procedure"]: row for row in table["rows"]}
    assert rows["paper"]["size_/_paper"] == 1.0
    assert rows["star, multiplicative"] == {**rows["guaranteed"], "procedure": "star, multiplicative"}
    assert rows["chosen family, official"] == {**rows["paper"], "procedure": "chosen family, official"}
    for row in rows.values():
        check_positive(row, "risk", "size")
        assert 0 <= row["violations"] <= 1
    assert rows["guaranteed"]["risk"] < rows["paper"]["risk"] < 0.12
    (judged,) = verdict["rows"]
    assert judged["guaranteed_extra"] == rows["guaranteed"]["size_/_paper"] - 1
    required = judged["guaranteed_extra"] <= judged["plain_WSR_extra"] / 2
    assert judged["required_met"] == ("yes" if required else "no")
    assert judged["goal_met"] == ("yes" if judged["guaranteed_extra"] <= 0 else "no")


def test_realised_risk_is_the_risk_of_the_pool(tmp_path: Path, finished_run: Path) -> None:
    """In a single draw, risk and size are those of the pool at one point of its curves."""
    bounds = [calibration_memory.made_up_bounds((SPLITS[split], 1, 8, 8), seed) for split, seed in POOL]
    lower, upper, target = (np.concatenate(arrays) for arrays in zip(*bounds, strict=True))
    curves = loss_curves(LabelledBounds(lower, upper, target), Family("multiplicative"))
    paper = width(tmp_path, finished_run, "--n", "4000", "--draws", "1")[0]["rows"][0]
    at = int(np.argmin(np.abs(curves.losses.mean(axis=0) - paper["risk"])))
    assert curves.losses[:, at].mean() == pytest.approx(paper["risk"], rel=1e-5)
    assert curves.sizes[:, at].mean() == pytest.approx(paper["size"], rel=1e-5)


def test_calibration_width_fits_a_family_on_selection(tmp_path: Path, finished_run: Path) -> None:
    before = {path: path.read_bytes() for path in finished_run.rglob("*") if path.is_file()}
    table, verdict = width(tmp_path, finished_run, "--fit")
    assert (
        "chosen and fitted here (`--fit`), as a run does, on the split selection alone; expected risk" in table["text"]
    )
    assert verdict["rows"][0]["family"].endswith("(fitted here)")
    assert before == {path: path.read_bytes() for path in finished_run.rglob("*") if path.is_file()}


def test_calibration_width_takes_the_family_of_the_run(tmp_path: Path, finished_run: Path) -> None:
    path = finished_run / "denoising/dm_sb/guaranteed/calibration.json"
    choice = {"chosen_on": "selection", "chosen_among": {"additive": 0.25, "interval": 0.5}, "expected_risk": 0.07}
    write_json(path, {**json.loads(path.read_text()), "scaling": "additive", **choice})
    write_json(path.with_name("family.json"), {"name": "additive", "shape": None})
    table, verdict = width(tmp_path, finished_run)
    assert "additive, chosen and fitted by the run, on the split selection alone; expected risk 0.07" in table["text"]
    rows = {row["procedure"]: row for row in table["rows"]}
    assert rows["star, additive"] == {**rows["guaranteed"], "procedure": "star, additive"}
    assert verdict["rows"][0]["family"] == "additive"


def test_runs_without_calibrations_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration.main(["width", "--runs", str(tmp_path)]) == 1
    assert f"{tmp_path}: no calibration of dm_sb, n_conffusion" in capsys.readouterr().err


@pytest.mark.system
def test_full_size_networks_equal_the_official_ones(tmp_path: Path) -> None:
    """With CONFFUSION_OFFICIAL set to a clone of the official repository the outputs are compared, too."""
    clone = os.environ.get("CONFFUSION_OFFICIAL")
    options = ("--official", clone) if clone else ()
    content = run(forward.main, tmp_path / "forward.json", "--networks", "sr3", "palette", "adm", *options)
    for row in content["rows"]:
        check_positive(row, "ours_ms", *(("ratio",) if clone else ()))


@pytest.mark.system
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_benchmark_runs_at_full_size(tmp_path: Path) -> None:
    for row in run(gpu.main, tmp_path / "gpu.json", "--timesteps", "10")["rows"]:
        check_positive(row, "items_per_s", "ms_per_item", "peak_mib")


def test_data_benchmark_reads_once_and_prepares_both_tasks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert data.main(["--images", "24", "--side", "256", "--distinct", "2", "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    steps = ["index, first time", "index, again", "prepare, super_resolution", "prepare, inpainting"]
    assert [line.startswith(step) for step, line in zip(steps, lines, strict=True)] == [True] * 4
    assert not list(tmp_path.iterdir())
