"""The benchmarks run, their JSON holds what the tables show, and different outputs do not pass. No time is judged."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import common, forward, gpu

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


def test_a_folder_without_official_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        forward.main(["--official", str(tmp_path)])
    assert "is not a clone of https://github.com/" in capsys.readouterr().err


def test_ratios_are_taken_round_by_round() -> None:
    slow, fast = common.Measurement((4.0, 40.0, 6.0), None), common.Measurement((2.0, 20.0, 2.0), None)
    assert fast.ratio_to(slow) == 0.5
    assert fast.median == 2.0


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
