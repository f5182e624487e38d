"""The plan: names, shards that cover every image once, and settings that hold what a stage depends on, no more."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from conffusion.config import Config, merge, parse_config, read_yaml
from conffusion.errors import ConffusionError, ConfigError, DataError, ShapeError
from conffusion.stages.sampling import shard_rows
from conffusion.workflow.plan import (
    PROTOCOL_NAMES,
    SPLITS,
    Plan,
    checked_plan,
    config_text,
    method_of,
    replicate_of,
)

ROOT = Path(__file__).parents[2]
DEFAULT = read_yaml(ROOT / "config.yaml")
TASK = "super_resolution"


def config(**overlay: Any) -> Config:
    return parse_config(merge(DEFAULT, overlay))


def plan(**overlay: Any) -> Plan:
    return Plan(config(**overlay))


def without(section: str, name: str) -> dict[str, Any]:
    values = copy.deepcopy(DEFAULT)
    if isinstance(values[section], list):
        values[section].remove(name)
    else:
        del values[section][name]
    return values


# ---- names


def test_arms_stand_in_the_order_of_the_registry_whatever_the_configuration_says() -> None:
    methods = ["resnest", "dm_sb", "n_conffusion"]
    assert plan(methods=methods).arms == plan(methods=methods[::-1]).arms == ["dm_sb", "n_conffusion", "resnest"]


def test_replicates_repeat_the_trained_methods_alone() -> None:
    three = plan(methods=["dm_sb", "dm_sba", "resnext"], replicates=3)
    assert three.arms == ["dm_sb", "dm_sba", "dm_sba-r1", "dm_sba-r2", "resnext", "resnext-r1", "resnext-r2"]
    assert three.first_arms == ["dm_sb", "dm_sba", "resnext"]
    assert three.trained_arms == three.arms[1:]
    assert [(method_of(arm).name, replicate_of(arm)) for arm in three.arms[1:4]] == [
        ("dm_sba", 0), ("dm_sba", 1), ("dm_sba", 2),
    ]  # fmt: skip


def test_every_method_finds_its_prior() -> None:
    full = plan()
    priors = {arm: full.prior_name("inpainting", arm) for arm in full.arms}
    assert priors == {
        "adm_uq": "adm_photos", "dm_sb": "palette_faces", "dm_sba": "palette_faces", "n_conffusion": "palette_faces",
        "g_conffusion": "adm_photos", "resnext": "resnext_photos", "resnest": "resnest_photos",
    }  # fmt: skip
    assert full.prior_name(TASK, "n_conffusion-r2") == "sr3_faces"
    assert full.prior_path("sr3_faces") == "priors/sr3_faces.safetensors"
    assert plan(priors_dir=None, run="mine").prior_path("sr3_faces") == "results/mine/priors/sr3_faces.safetensors"


def test_protocols_and_splits_are_those_of_the_contract() -> None:
    assert PROTOCOL_NAMES == ("paper", "guaranteed")
    assert set(SPLITS) == {"finetune", "selection", "calibration", "test"}


def test_configuration_text_is_the_configuration() -> None:
    mine = config(seed=5)
    assert parse_config(yaml.safe_load(config_text(mine))) == mine


# ---- shards


@given(st.integers(1, 3000), st.integers(1, 500))
def test_shards_cover_every_row_once(n_images: int, images_per_shard: int) -> None:
    some = plan(dataset={"splits": {"test": n_images}}, sampling={"images_per_shard": images_per_shard})
    n_shards = some.n_shards("test")
    names = some.shards(TASK, "test")
    assert len(set(names)) == len(names) == n_shards
    assert names == sorted(names)  # bounds are put together in this order
    pieces = [range(n_images)[shard_rows(n_images, k, n_shards)] for k in range(n_shards)]
    assert [row for piece in pieces for row in piece] == list(range(n_images))
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) <= images_per_shard
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 500), st.integers(1, 40))
def test_shards_of_a_share_cover_every_row_once(n_images: int, n_shards: int) -> None:
    """The size of a share is not known beforehand, so the number of shards is fixed."""
    splits = dict.fromkeys(SPLITS, 0.25)
    some = plan(dataset={"splits": splits}, sampling={"shards_per_share": n_shards})
    assert some.n_shards("test") == n_shards
    if n_shards > n_images:
        with pytest.raises(DataError, match="lower sampling.shards_per_share"):
            shard_rows(n_images, 0, n_shards)
        return
    rows = [row for k in range(n_shards) for row in range(n_images)[shard_rows(n_images, k, n_shards)]]
    assert rows == list(range(n_images))


# ---- what a stage depends on

STAGES = (
    "split_images", "sample_variants", "extract_bounds", "finetune_method", "predict_bounds", "trace_candidates",
    "calibrate_method", "assess_validity",
)  # fmt: skip


def all_settings(some: Plan) -> dict[tuple[str, str, str], Any]:
    """Settings of every job of a plan, by stage, task and arm."""
    jobs: dict[tuple[str, str, str], Any] = {("split_images", "", ""): some.settings("split_images")}
    for stage in STAGES[1:]:
        arms = some.trained_arms if stage in ("finetune_method", "predict_bounds", "trace_candidates") else some.arms
        for task in some.tasks:
            for arm in arms:
                jobs[stage, task, arm] = some.settings(stage, task, arm)
    for task in some.tasks:
        jobs["prepare_images", task, ""] = some.image_settings(task, "images")
    return jobs


def changed_jobs(**overlay: Any) -> set[tuple[str, str, str]]:
    before, after = all_settings(plan()), all_settings(plan(**overlay))
    assert set(before) <= set(after)
    return {job for job, settings in before.items() if settings != after[job]}


def test_tuned_settings_of_a_method_concern_that_method_alone() -> None:
    overlay = {"finetuning": {"tuned": {TASK: {"n_conffusion": {"n_steps": 7}}}}}
    assert changed_jobs(**overlay) == {("finetune_method", TASK, "n_conffusion")}


def test_another_method_changes_nobody_else() -> None:
    fewer = Plan(parse_config(without("methods", "g_conffusion")))
    before, after = all_settings(fewer), all_settings(plan())
    assert {arm for _, _, arm in set(after) - set(before)} == {"g_conffusion"}
    assert all(after[job] == settings for job, settings in before.items())


def test_another_task_or_replicate_changes_nobody_else() -> None:
    fewer = Plan(parse_config(without("tasks", "inpainting")))
    before, after = all_settings(fewer), all_settings(plan())
    assert all(after[job] == settings for job, settings in before.items())
    assert changed_jobs(replicates=3) == set()


def stages_of(jobs: set[tuple[str, str, str]]) -> set[str]:
    return {stage for stage, _, _ in jobs}


@pytest.mark.parametrize(
    ("overlay", "stages"),
    [
        ({"sampling": {"n_variants": 7}}, {"sample_variants"}),
        ({"finetuning": {"batch_size": 7}}, {"finetune_method"}),
        ({"validity": {"n_draws": 7}}, {"assess_validity"}),
        ({"precision": "bfloat16"}, {"sample_variants", "finetune_method", "predict_bounds", "trace_candidates"}),
        ({"image_size": 64}, {"split_images", "prepare_images"}),
        ({"dataset": {"splits": {"test": 7}}}, {"split_images", "prepare_images"}),
        ({"tasks": {TASK: {"degradation": {"factor": 8}}}}, {"prepare_images"}),
        ({"calibration": {"alpha": 0.3}}, {"extract_bounds", "finetune_method", "calibrate_method", "assess_validity"}),
        *[({key: value}, set[str]()) for key, value in {
            "run": "other", "threads": 2, "device": "cpu", "report": {"n_bootstrap": 999},
            "tuning": {"n_trials": 3}, "keep_results_of_older_code": True, "priors_dir": "elsewhere",
        }.items()],
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_setting_concerns_its_own_stages(overlay: dict[str, Any], stages: set[str]) -> None:
    assert stages_of(changed_jobs(**overlay)) == stages


def test_degradation_concerns_its_own_task() -> None:
    jobs = changed_jobs(tasks={"inpainting": {"degradation": {"hole": 0.25}}})
    assert {task for _, task, _ in jobs} == {"inpainting"}


def test_prior_concerns_the_methods_that_start_from_it() -> None:
    jobs = changed_jobs(priors={"resnext_photos": {"options": {"n_classes": 5}}})
    assert {(stage, arm) for stage, _, arm in jobs} == {("finetune_method", "resnext")}


@pytest.mark.parametrize("overlay", [{"delta": 0.3}, {"ucb": "hoeffding"}, {"scaling": "additive"}], ids=str)
def test_only_alpha_concerns_the_quantiles_of_variants(overlay: dict[str, Any]) -> None:
    assert "extract_bounds" not in stages_of(changed_jobs(calibration=overlay))


@pytest.mark.xfail(strict=True, reason="how variants are batched and stored in shards is part of what they depend on")
@pytest.mark.parametrize("overlay", [{"batch_size": 7}, {"shards_per_share": 7}], ids=str)
def test_batches_do_not_concern_the_variants(overlay: dict[str, Any]) -> None:
    assert changed_jobs(sampling=overlay) == set()


def test_seed_concerns_everything_random() -> None:
    assert stages_of(changed_jobs(seed=5)) == {*STAGES, "prepare_images"} - {"extract_bounds", "calibrate_method"}


def test_settings_are_plain_values_that_survive_yaml() -> None:
    for job, settings in all_settings(plan(replicates=2)).items():
        assert yaml.safe_load(yaml.safe_dump(settings)) == settings, job


def test_changing_returned_settings_does_not_change_the_plan() -> None:
    some = plan()
    some.settings("sample_variants", TASK)["prior"]["options"]["inner_channel"] = -1
    assert some.settings("sample_variants", TASK)["prior"]["options"]["inner_channel"] > 0


def test_unknown_stage_is_an_error_of_the_program() -> None:
    with pytest.raises(ValueError, match="paint: is not a stage"):
        plan().settings("paint")


# ---- refusals


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder with a file for every prior."""
    for name in DEFAULT["priors"]:
        (tmp_path / f"{name}.safetensors").touch()
    return tmp_path


def test_default_configuration_passes_the_checks(shipped: Path) -> None:
    assert checked_plan(config(priors_dir=str(shipped))).arms


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
    refused(ConfigError, rf"dataset.splits.{split} = 3: too few.*\d+ images", shipped, dataset={"splits": {split: 3}})


@pytest.mark.parametrize(
    "splits",
    [{"test": 0.5}, dict.fromkeys(SPLITS, 0.5), dict.fromkeys(SPLITS, 0.25)],
    ids=["mixed", "more than all", "shares of an endless dataset"],
)
def test_impossible_splits_are_refused_before_the_first_job(splits: dict[str, float], shipped: Path) -> None:
    refused(ConffusionError, "dataset.splits", shipped, dataset={"splits": splits})


def test_more_sampling_steps_than_the_schedule_has_are_refused_before_the_first_job(shipped: Path) -> None:
    refused(ConffusionError, "sampling.n_steps", shipped, sampling={"n_steps": 500})
