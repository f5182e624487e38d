"""The command line: what it prints, and how it refuses."""

from pathlib import Path

import pytest
import torch
import yaml

from conffusion.cli import main
from conffusion.models.checkpoint import load_checkpoint
from conffusion.models.official import official_state_dict
from conffusion.models.unet import build_unet
from tests import conformance

ROOT = Path(__file__).parents[2]
SMALL = conformance.load("adm/small_net")[0]["config"]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_check_says_what_a_run_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--configfile", "config/smoke.yaml"]) == 0
    assert "run smoke: the configuration is valid" in capsys.readouterr().out


def test_doctor_lists_what_is_missing_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "ok    configuration" in capsys.readouterr().out
    assert main(["doctor", "--configfile", "config/paper.yaml"]) == 1
    message = capsys.readouterr().err
    assert "not ready for run paper" in message and message.count("FAIL") >= 6 and "Traceback" not in message


def test_unknown_file_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--configfile", "nowhere.yaml"]) == 1
    assert capsys.readouterr().err.startswith("conffusion: nowhere.yaml: cannot be read")


def overlay(folder: Path) -> str:
    prior = {"network": "adm", "options": SMALL, "task": None, "schedule": {
        "name": "linear", "n_timesteps": 1000, "linear_start": 1e-4, "linear_end": 0.02, "cosine_s": 0.008,
        "respacing": 250,
    }}  # fmt: skip
    (folder / "small.yaml").write_text(yaml.safe_dump({"priors": {"small": prior}}))
    return str(folder / "small.yaml")


def test_official_checkpoint_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "128x128_diffusion.pt", tmp_path / "adm.safetensors"
    torch.save(official_state_dict(build_unet("adm", SMALL)), source)
    arguments = ["import-checkpoint", str(source), str(output), "--prior", "small", "--configfile", overlay(tmp_path)]
    assert main(arguments) == 0
    assert "small, from 128x128_diffusion.pt (sha256 " in capsys.readouterr().out
    assert load_checkpoint(output)[1]["source"]["file"] == "128x128_diffusion.pt"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--prior", "smal"], "--prior smal: is not one of"),
        (
            ["--prior", "small", "--finetuned", "super_resolution/nobody"],
            "finetuning.tuned has no super_resolution.nobody",
        ),
    ],
)
def test_wrong_names_are_refused(
    changes: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({}, tmp_path / "x.pt")
    files = [str(tmp_path / "x.pt"), str(tmp_path / "out.safetensors")]
    assert main(["import-checkpoint", *files, *changes, "--configfile", overlay(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
