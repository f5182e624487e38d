"""config/medium.yaml end to end at its own image size: networks of its shapes, trained in the run, hardly at all."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from conffusion.config import load_config
from conffusion.data.photos import PhotoPatches
from conffusion.models.checkpoint import load_checkpoint
from conffusion.pipeline.plan import SPLITS
from conffusion.store import open_store
from tests.test_workflow_end_to_end import PARTS, ROOT, Workflow, check_contract

TASKS = ["super_resolution", "inpainting"]
QUICK = {"n_images": 32, "n_steps": 3, "batch_size": 8}
FEW_STEPS = dict.fromkeys(("adm_uq", "dm_sba", "n_conffusion", "g_conffusion", "resnext", "resnest"), {"n_steps": 4})
SHRUNK: dict[str, Any] = {
    "threads": 1,
    "dataset": {"splits": {"finetune": 16, "selection": 32, "calibration": 32, "test": 16}},
    "priors": {
        name: {"training": QUICK}
        for name in ("sr3_faces", "palette_faces", "adm_photos", "resnext_photos", "resnest_photos")
    },
    "sampling": {"n_steps": 2, "n_variants": 3, "batch_size": 48, "images_per_shard": 16},
    "finetuning": {"batch_size": 4, "validate_every": 2, "tuned": dict.fromkeys(TASKS, FEW_STEPS)},
    "calibration": {"alpha": 0.3, "delta": 0.3},
    "validity": {"calibration_sizes": [16], "n_draws": 50},
    "report": {"n_examples": 2, "n_bootstrap": 100},
}


def run_medium(root: Path, **changes: Any) -> Workflow:
    """The workflow's own files with config/medium.yaml, run to its end."""
    for part in (*PARTS, "config.yaml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, root / part)
    (root / "pruned.yaml").write_text(yaml.safe_dump(SHRUNK))
    workflow = Workflow(root, "medium")
    outcome = workflow.snakemake(**changes)
    assert outcome.code == 0, outcome.text
    return workflow


def training_of(workflow: Workflow, prior: str) -> dict[str, Any]:
    return dict(load_checkpoint(workflow.run / "priors" / f"{prior}.safetensors")[1]["training"])


@pytest.mark.system
def test_faces_with_all_methods(tmp_path: Path) -> None:
    workflow = run_medium(tmp_path)
    check_contract(workflow.run, TASKS, load_config(ROOT / "config.yaml").methods)
    assert open_store(workflow.run / TASKS[0] / "images" / "test.zarr")["target"].shape == (16, 3, 64, 64)
    assert training_of(workflow, "sr3_faces")["images"] == "faces"
    assert training_of(workflow, "adm_photos")["images"] == "photos"


@pytest.mark.system
def test_photographs_of_a_folder_that_train_the_priors_of_the_tasks(tmp_path: Path) -> None:
    photographs, _ = PhotoPatches(80, seed=1).batch(range(110))
    (tmp_path / "photographs").mkdir()
    for k, pixels in enumerate(photographs):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "photographs" / f"{k:03d}.jpg")
    own = {"training": {**QUICK, "images": "dataset"}}
    workflow = run_medium(
        tmp_path,
        dataset={"name": "folder", "folder": {"path": "photographs"}},
        priors={"sr3_faces": own, "palette_faces": own},
        methods=["dm_sb", "dm_sba", "n_conffusion"],
    )
    check_contract(workflow.run, TASKS, ["dm_sb", "dm_sba", "n_conffusion"])
    assert {training_of(workflow, name)["images"] for name in ("sr3_faces", "palette_faces")} == {"dataset"}
    ids = [open_store(workflow.run / TASKS[0] / "images" / f"{split}.zarr").image_ids for split in SPLITS]
    assert len(set().union(*ids)) == sum(map(len, ids)) == 96
