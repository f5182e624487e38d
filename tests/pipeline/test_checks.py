"""Configurations that cannot run are refused before the first job, with the key and the remedy."""

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from conffusion.config import load_config, parse_config
from conffusion.errors import ConffusionError, ConfigError, ShapeError
from conffusion.pipeline.checks import check_dealt, checked_plan
from conffusion.pipeline.plan import SPLITS
from tests.pipeline.configs import DEFAULT, ROOT, TASK, config, without


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder with a file for every prior."""
    for name in DEFAULT["priors"]:
        (tmp_path / f"{name}.safetensors").touch()
    return tmp_path


def test_default_configuration_passes_the_checks(shipped: Path) -> None:
    assert checked_plan(config(priors_dir=str(shipped))).method_runs


def refused(kind: type[ConffusionError], match: str, shipped: Path, **overlay: Any) -> None:
    with pytest.raises(kind, match=match):
        checked_plan(config(**{"priors_dir": str(shipped), **overlay}))


def test_unknown_method_is_named(shipped: Path) -> None:
    refused(ConfigError, "'n_confusion'.*did you mean 'n_conffusion'", shipped, methods=["n_confusion"])


def test_unknown_task_is_named(shipped: Path) -> None:
    task = {"inpaintin": DEFAULT["tasks"]["inpainting"]}
    refused(ConfigError, "inpaintin.*inpainting", shipped, tasks=task)


def test_unknown_or_impossible_degradation_is_named(shipped: Path) -> None:
    refused(ConfigError, "factr.*factor", shipped, tasks={TASK: {"degradation": {"factr": 4}}})
    refused(ConfigError, "hole = 1.5", shipped, tasks={"inpainting": {"degradation": {"hole": 1.5}}})
    refused(ShapeError, "factor = 5 does not divide", shipped, tasks={TASK: {"degradation": {"factor": 5}}})


def test_missing_tuned_settings_are_named(shipped: Path) -> None:
    values = copy.deepcopy(DEFAULT)
    del values["finetuning"]["tuned"]["inpainting"]["resnext"]
    with pytest.raises(ConfigError, match=r"finetuning.tuned.inpainting.resnext: is missing"):
        checked_plan(parse_config({**values, "priors_dir": str(shipped)}))


def test_missing_role_is_named(shipped: Path) -> None:
    with pytest.raises(ConfigError, match=r"networks.resnext: is missing; the method 'resnext'"):
        checked_plan(parse_config({**without("networks", "resnext"), "priors_dir": str(shipped)}))


def test_missing_prior_file_is_named_with_the_remedy(shipped: Path) -> None:
    (shipped / "adm_photos.safetensors").unlink()
    refused(ConfigError, r"lacks adm_photos.safetensors.*priors_dir: null", shipped)
    assert checked_plan(config(priors_dir=None))
    assert checked_plan(config(priors_dir=str(shipped), methods=["dm_sb", "n_conffusion"]))  # do not need it


def test_missing_folder_is_named(shipped: Path) -> None:
    dataset = {"name": "folder", "folder": {"path": str(shipped / "nowhere")}}
    refused(ConfigError, r"dataset.folder.path = .*nowhere'.*no such folder", shipped, dataset=dataset)


@pytest.mark.parametrize("split", ["calibration", "selection"])
def test_too_few_images_for_alpha_and_delta_name_the_split_and_the_number(split: str, shipped: Path) -> None:
    message = rf"dataset.splits.{split}: has 3 images, too few.*\d+ images"
    refused(ConfigError, message, shipped, dataset={"splits": {split: 3}})


@pytest.mark.parametrize(
    "splits",
    [{"test": 0.5}, dict.fromkeys(SPLITS, 0.5), dict.fromkeys(SPLITS, 0.25)],
    ids=["mixed", "more than all", "shares of an endless dataset"],
)
def test_impossible_splits_are_refused_before_the_first_job(splits: dict[str, float], shipped: Path) -> None:
    refused(ConffusionError, "dataset.splits", shipped, dataset={"splits": splits})


def test_more_sampling_steps_than_the_schedule_has_are_refused_before_the_first_job(shipped: Path) -> None:
    refused(ConffusionError, "sampling.n_steps", shipped, sampling={"n_steps": 500})


# ---- official files


def test_all_missing_files_are_listed_at_once_with_their_source() -> None:
    with pytest.raises(ConfigError) as caught:
        checked_plan(load_config(ROOT / "config.yaml", ROOT / "config" / "paper.yaml"))
    message = str(caught.value)
    assert message.count("/PATH/") == 6
    parts = ("dataset.folder.path", "priors.adm_imagenet.checkpoint", "I640000_E37_gen.pth (SR3", "github.com/openai")
    assert [part for part in parts if part not in message] == []


def test_files_at_the_six_paths_are_enough_for_a_plan(tmp_path: Path) -> None:
    paper = load_config(ROOT / "config.yaml", ROOT / "config" / "paper.yaml")
    values = paper.model_dump()
    values["dataset"]["folder"]["path"] = str(tmp_path)
    for name in ("sr3_celebahq", "palette_celebahq", "adm_imagenet", "resnext_imagenet", "resnest_imagenet"):
        values["priors"][name]["checkpoint"] = str(tmp_path / name)
        (tmp_path / name).touch()
    assert len(checked_plan(parse_config(values)).method_runs) == 7


def test_prior_without_weights_or_training_is_refused() -> None:
    tasks = {TASK: {"prior": "sr3_celebahq", "degradation": {"factor": 8}}}
    with pytest.raises(ConfigError, match=r"priors.sr3_celebahq: set `checkpoint` to its file: I640000_E37_gen.pth"):
        checked_plan(config(priors_dir=None, tasks=tasks, methods=["dm_sb"]))


def test_rule_filled_weights_need_no_file() -> None:
    checked_plan(load_config(ROOT / "config.yaml", ROOT / "config" / "paper-smoke.yaml"))


# ---- priors in their roles


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        (
            {"tasks": {"inpainting": {"prior": "sr3_faces"}}},
            "tasks.inpainting.prior = 'sr3_faces': restores super_resol",
        ),
        ({"tasks": {"inpainting": {"prior": "adm_photos"}}}, "tasks.inpainting.prior = 'adm_photos': restores no task"),
        ({"networks": {"generic": "sr3_faces"}}, "networks.generic = 'sr3_faces': restores super_resolution"),
        (
            {"networks": {"generic": "resnext_photos"}},
            "networks.generic = 'resnext_photos': must be a diffusion network",
        ),
        ({"networks": {"resnext": "adm_photos"}}, "networks.resnext = 'adm_photos': must be an encoder"),
        ({"image_size": 64}, r"options.image_size = 32: but its images have 64 pixels a side.*priors_dir: null"),
    ],
    ids=str,
)
def test_prior_that_does_not_fit_its_role_is_refused(overlay: dict[str, Any], message: str, shipped: Path) -> None:
    refused(ConfigError, message, shipped, **overlay)


def test_own_images_train_priors_of_a_task_alone() -> None:
    values = {"priors": {"resnext_photos": {"training": {"images": "dataset"}}}, "priors_dir": None}
    with pytest.raises(ConfigError, match="priors.resnext_photos.training.images = 'dataset': only a prior of a confi"):
        checked_plan(config(**values))
    checked_plan(config(priors={"palette_faces": {"training": {"images": "dataset"}}}, priors_dir=None))


# ---- images once they are dealt


def dealt(n_groups: int, size: int) -> pd.DataFrame:
    """Every split has so many groups of so many images."""
    rows = [
        (f"{split}-{k}-{j}", f"{split}-{k}" if size > 1 else f"{split}-{k}-{j}", split)
        for split in SPLITS
        for k in range(n_groups)
        for j in range(size)
    ]
    return pd.DataFrame(rows, columns=["image_id", "group", "split"])


def test_groups_are_counted_where_images_have_them() -> None:
    settings = config().calibration
    assert check_dealt(dealt(40, 1), settings)["test"] == (40, 40)
    assert check_dealt(dealt(40, 3), settings)["calibration"] == (120, 40)
    with pytest.raises(ConfigError, match=r"dataset.splits.selection: has 10 groups, too few.*groups"):
        check_dealt(dealt(10, 12), settings)
