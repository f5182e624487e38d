"""What the doctor looks at, and what it says when something is wrong."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from conffusion.models.official import official_state_dict
from conffusion.models.unet import build_unet
from conffusion.pipeline.doctor import Finding, examine
from tests import conformance
from tests.pipeline.configs import TASK, config

SMALL = conformance.load("sr3/small_net")[0]["config"]


def findings(**overlay: Any) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(config(**overlay))}


def test_default_run_is_healthy() -> None:
    found = findings()
    assert list(found) == [
        "versions", "device", "configuration", "prior adm_photos", "prior palette_faces", "prior resnest_photos",
        "prior resnext_photos", "prior sr3_faces", "disk",
    ]  # fmt: skip
    assert all(finding.healthy for finding in found.values()), found
    assert "torch 2.13.0" in found["versions"].detail


def official(path: Path) -> dict[str, Any]:
    """Overlay with a small SR3 in the place of the official one."""
    prior = {"network": "sr3", "options": SMALL, "checkpoint": str(path), "image_size": 32}
    return {"methods": ["dm_sb"], "tasks": {TASK: {"prior": "small"}}, "priors": {"small": {
        **prior, "task": TASK, "schedule": config().priors["sr3_faces"].schedule.model_dump(),  # type: ignore[union-attr]
    }}}  # fmt: skip


def test_official_checkpoint_is_compared_by_names_and_shapes(tmp_path: Path) -> None:
    path = tmp_path / "I640000_E37_gen.pth"
    network = build_unet("sr3", SMALL)
    torch.save(official_state_dict(network, "pretrained"), path)
    found = findings(**official(path))["prior small"]
    assert found.healthy and "names and shapes fit; sha256" in found.detail
    torch.save(dict(list(official_state_dict(network, "pretrained").items())[3:]), path)
    found = findings(**official(path))["prior small"]
    assert not found.healthy and "3 missing" in found.detail
    path.write_bytes(b"no checkpoint")
    assert "refused" in findings(**official(path))["prior small"].detail
    path.unlink()
    found = findings(**official(path))
    assert not found["configuration"].healthy and "no such file" in found["configuration"].detail
    assert not found["prior small"].healthy and found["versions"].healthy and found["disk"].healthy


def test_images_are_dealt_and_counted(tmp_path: Path) -> None:
    for k in range(60):
        Image.new("RGB", (40, 40), (k, 0, 0)).save(tmp_path / f"{k}.png")
    dataset = {"name": "folder", "folder": {"path": str(tmp_path)}}
    found = findings(dataset=dataset)["images"]
    assert not found.healthy and "2200 images are needed" in found.detail
    splits = {"finetune": 5, "selection": 25, "calibration": 25, "test": 5}
    found = findings(dataset={**dataset, "splits": splits})["images"]
    assert found.healthy and "calibration 25 in 25 groups" in found.detail
    grouped = {"path": str(tmp_path), "group_pattern": "^(.)"}
    found = findings(dataset={**dataset, "folder": grouped, "splits": dict.fromkeys(splits, 0.25)})["images"]
    assert not found.healthy and "groups, too few" in found.detail
    assert not findings(dataset={"name": "folder", "folder": {"path": str(tmp_path / "none")}})["images"].healthy
