"""package, predict, calibrate and evaluate as people call them: what they print, write and refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from conffusion.cli import main
from conffusion.inference.model_file import write_package
from tests.inference.conftest import write_images
from tests.inference.small_package import small_package


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    write_package(small_package(folder), folder / "m.conffusion", "")
    return str(folder / "m.conffusion")


def test_predict_prints_the_guarantee_and_where_things_are(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", ["a.png", "-b.png"], side=8)
    assert main(["predict", model, str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "2 images in" in printed and "at most 20 % of the true pixel values" in printed
    assert "drift check p = " in printed and f"conffusion view {tmp_path}/out" in printed
    assert (tmp_path / "out" / "-b" / "interval.json").is_file()


def test_calibrate_then_evaluate(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "in", [f"{k:02d}.png" for k in range(20)], side=16)
    common = ["--targets", str(tmp_path / "in"), "--device", "cpu"]
    assert main(["calibrate", model, *common, "--output", str(tmp_path / "c"), "--alpha", "0.3", "--delta", "0.3"]) == 0
    assert "draw of the 20 calibration images" in capsys.readouterr().out
    new = str(tmp_path / "c" / "model.conffusion")
    assert main(["evaluate", new, *common, "--output", str(tmp_path / "e"), "--no-pictures"]) == 0
    assert "allowed: at most 30 % on average" in capsys.readouterr().out
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["n"] == 20
    assert not list((tmp_path / "e").rglob("overview.png"))


def test_arrays_of_any_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    target = generator.random((60, 1, 5, 5))
    centre = target + 0.1 * generator.standard_normal(target.shape)
    for name, values in (("lower", centre - 0.1), ("upper", centre + 0.1), ("target", target)):
        np.save(tmp_path / f"{name}.npy", np.clip(values, 0, 1))
    arrays = [word for name in ("lower", "upper", "target") for word in (f"--{name}", str(tmp_path / f"{name}.npy"))]
    assert main(["calibrate", *arrays, "--output", str(tmp_path / "c")]) == 0
    scale = json.loads((tmp_path / "c" / "calibration.json").read_text())["lambda_hat"]
    assert main(["evaluate", *arrays, "--output", str(tmp_path / "e")]) == 1
    assert "--alpha is missing" in capsys.readouterr().err
    assert (
        main(["evaluate", *arrays, "--alpha", "0.1", "--lambda-hat", str(scale), "--output", str(tmp_path / "e")]) == 0
    )
    assert "Risk controlled on these images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "gone.conffusion", "a.png", "--output", "o"], "gone.conffusion: cannot be read as a package"),
        (["predict", "MODEL", "gone.png", "--output", "o"], "gone.png: no such file"),
        (["predict", "MODEL", "a.png", "--output", "o", "--mask", "a.png"], "leave --mask out"),
        (["predict", "MODEL", "a.png", "--output", "a.png"], "is a file"),
        (["predict", ".", "a.png", "--output", "o"], "is no method of a run"),
        (["predict", "MODEL", "a.png", "--output", "o", "--max-pixels", "3"], "a.png"),
        (["predict", "MODEL", "lab.tif", "--output", "o"], "lab.tif"),
        (["predict", "MODEL", "a.png", "--output", "o", "--device", "cuda"], "no CUDA device"),
        (["package", "results/nothing/x/y", "--output", "o.conffusion"], "is no method of a run"),
        (["calibrate", "MODEL", "--output", "o"], "--targets is missing"),
        (["calibrate", "--output", "o"], "give a model"),
        (["calibrate", "--lower", "x.npy", "--output", "o"], "needs the other two"),
        (["calibrate", "MODEL", "--targets", "a.png", "--output", "o", "--licence", "gone.txt"], "gone.txt"),
        (["calibrate", "MODEL", "--targets", "a.png", "--output", "o"], "images would be needed"),
    ],
)
def test_mistakes_are_one_clear_line_and_leave_nothing(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path, ["a.png"], side=8)
    tifffile.imwrite("lab.tif", np.zeros((8, 8, 3), np.uint8), photometric="cielab")
    if "cuda" in arguments and _has_cuda():
        pytest.skip("has a CUDA device")
    assert main([model if word == "MODEL" else word for word in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not [file for file in Path("o").rglob("*") if file.is_file()]


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a small file system")
def test_a_full_disk_leaves_nothing_that_looks_complete(model: str, tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"], side=96)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("cannot mount a small file system")
    try:
        assert main(["predict", model, str(tmp_path / "a.png"), "--output", str(disk / "out"), "--device", "cpu"]) == 1
        assert not (disk / "out" / "a" / "interval.json").exists()
        assert not [file for file in disk.rglob("*") if file.name.endswith(".tmp")]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_processes_may_write_one_output(model: str, tmp_path: Path) -> None:
    write_images(tmp_path / "in", [f"{k}.png" for k in range(4)], side=12)
    command = [
        sys.executable, "-m", "conffusion.cli", "predict", model, str(tmp_path / "in"), "--output",
        str(tmp_path / "out"), "--device", "cpu", "--threads", "1",
    ]  # fmt: skip
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    for k in range(4):
        record = json.loads((tmp_path / "out" / str(k) / "interval.json").read_text())
        for file in record["files"].values():
            Image.open(tmp_path / "out" / str(k) / file).load()
    assert not [file for file in (tmp_path / "out").rglob("*") if file.name.endswith(".tmp")]
