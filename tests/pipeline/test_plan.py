"""The plan: names, shards that cover every image once, memory."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from conffusion.config import load_config, parse_config
from conffusion.errors import DataError
from conffusion.pipeline.plan import (
    PROTOCOL_NAMES,
    SPLITS,
    Plan,
    config_text,
    method_of,
    replicate_of,
)
from conffusion.pipeline.rule_settings import RuleSettings
from conffusion.pipeline.stages.sampling import shard_rows
from tests.pipeline.configs import ROOT, TASK, config, plan

# ---- names


def test_method_runs_stand_in_the_order_of_the_registry_whatever_the_configuration_says() -> None:
    methods = ["resnest", "dm_sb", "n_conffusion"]
    assert (
        plan(methods=methods).method_runs
        == plan(methods=methods[::-1]).method_runs
        == ["dm_sb", "n_conffusion", "resnest"]
    )


def test_replicates_repeat_the_trained_methods_alone() -> None:
    three = plan(methods=["dm_sb", "dm_sba", "resnext"], replicates=3)
    assert three.method_runs == ["dm_sb", "dm_sba", "dm_sba-r1", "dm_sba-r2", "resnext", "resnext-r1", "resnext-r2"]
    assert three.first_method_runs == ["dm_sb", "dm_sba", "resnext"]
    assert three.trained_method_runs == three.method_runs[1:]
    assert [(method_of(method_run).name, replicate_of(method_run)) for method_run in three.method_runs[1:4]] == [
        ("dm_sba", 0), ("dm_sba", 1), ("dm_sba", 2),
    ]  # fmt: skip


def test_every_method_finds_its_prior() -> None:
    full = plan()
    priors = {method_run: full.prior_name("inpainting", method_run) for method_run in full.method_runs}
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


# ---- images of several sizes, and memory


def paper() -> Plan:
    return Plan(load_config(ROOT / "config.yaml", ROOT / "config" / "paper.yaml"))


def test_networks_of_the_paper_see_images_of_their_own_sizes() -> None:
    sizes = {
        (task, method_run): paper().image_size(task, method_run)
        for task in paper().tasks
        for method_run in ("", "dm_sb", "g_conffusion")
    }
    assert sizes == {
        ("super_resolution", ""): 128, ("super_resolution", "dm_sb"): 128, ("super_resolution", "g_conffusion"): 128,
        ("inpainting", ""): 256, ("inpainting", "dm_sb"): 256, ("inpainting", "g_conffusion"): 128,
    }  # fmt: skip
    assert paper().image_size("inpainting", "resnext") == 256  # encoders take the task's size
    assert paper().largest_image_size == 256
    assert paper().images("inpainting", "test") == "results/paper/inpainting/images/test.json"
    assert paper().images("inpainting", "test", "adm_uq") == "results/paper/inpainting/images-128/test.json"
    assert paper().images("super_resolution", "test", "adm_uq") == "results/paper/super_resolution/images/test.json"


def test_official_settings_of_the_paper() -> None:
    """Steps in the schedule, numbers of validations and shards that the official code has."""
    some = paper()
    steps = {
        "super_resolution": {"n_conffusion": 0, "g_conffusion": 3},
        "inpainting": {"dm_sba": 155, "g_conffusion": 15},
    }
    for task, methods in steps.items():
        for method_run, step in methods.items():
            schedule = some.config.priors[some.prior_name(task, method_run)].schedule
            assert schedule is not None
            n_timesteps = schedule.respacing or schedule.n_timesteps
            assert int(some.config.finetuning.tuned[task][method_run].prediction_time * n_timesteps + 1e-9) == step
    assert some.imported_priors == [
        "sr3_celebahq", "palette_celebahq", "adm_imagenet", "resnext_imagenet", "resnest_imagenet",
    ]  # fmt: skip
    for name in some.imported_priors:
        prior = RuleSettings(some)("import_prior", prior=name).prior
        assert (prior.options, prior.checkpoint) == (
            some.config.priors[name].options,
            some.config.priors[name].checkpoint,
        )
    assert some.prior_path("sr3_celebahq") == "results/paper/priors/sr3_celebahq.safetensors"
    assert some.config.official_quirks and not plan().config.official_quirks


def test_memory_grows_with_images_and_networks() -> None:
    stages = ("prepare_images", "sample_variants", "finetune_method", "predict_bounds", "evaluate_method", "plot")
    for stage in stages:
        small, large = plan().memory_mb(stage, "inpainting", "dm_sba"), paper().memory_mb(stage, "inpainting", "dm_sba")
        assert 2500 <= small <= 3500 and small < large
        assert large % 500 == 0


def test_memory_follows_the_network_whether_its_file_is_there_or_not() -> None:
    """ADM with weights filled by a rule took 9.2 GB in fine-tuning, measured with batches of 2."""
    smoke = Plan(load_config(ROOT / "config.yaml", ROOT / "config" / "paper-smoke.yaml"))
    assert 9200 < smoke.memory_mb("finetune_method", TASK, "g_conffusion") < 1.6 * 9200
    assert paper().prior_memory_mb("import_prior", "adm_imagenet") > 4 * 421.6e6 * 3 / 1e6  # three copies at least


def test_memory_of_training_a_prior_grows_with_images_batches_and_averages() -> None:
    def needed(**training: Any) -> int:
        return plan(image_size=64, priors={"sr3_faces": {"training": training}}).prior_memory_mb(
            "train_prior", "sr3_faces"
        )

    few = {"n_images": 1000, "batch_size": 8}
    assert needed(**few) < needed(**{**few, "n_images": 100_000}) < needed(**{**few, "n_images": 200_000})
    assert needed(**few) < needed(**{**few, "batch_size": 1000})
    averaged = load_config(ROOT / "config.yaml", ROOT / "config" / "paper.yaml").model_dump()
    averaged["finetuning"]["ema"] = 0.99
    method_run = ("finetune_method", TASK, "g_conffusion")
    assert Plan(parse_config(averaged)).memory_mb(*method_run) > paper().memory_mb(*method_run) + 2 * 1400


@pytest.mark.parametrize("overlay", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_overlays_are_valid(overlay: Path) -> None:
    config = load_config(ROOT / "config.yaml", overlay) if overlay.stem != "photographs" else None
    assert config is None or Plan(config).method_runs
