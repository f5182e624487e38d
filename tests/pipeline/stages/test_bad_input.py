"""Damaged or unsuitable files stop the stage that reads them, are named, and leave nothing that looks finished."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conffusion.config.schema import CalibrationSettings, DatasetSettings
from conffusion.errors import CalibrationError, CheckpointError, ConffusionError, DataError, StoreError
from conffusion.models.checkpoint import load_checkpoint, save_checkpoint
from conffusion.pipeline.stages.images import prepare_images, split_images
from conffusion.pipeline.stages.prediction import trace_candidates
from conffusion.pipeline.stages.sampling import sample_variants
from conffusion.store import open_store, read_array, write_store
from tests.methods.small_specs import SIDE
from tests.pipeline.stages.small_run import (
    CALIBRATION,
    CPU,
    SEED,
    SmallRun,
    faces,
    prior_settings,
)

TRUNCATED = "is truncated or altered"


@pytest.fixture
def run(copied: SmallRun) -> SmallRun:
    """A run to be damaged."""
    return copied


def truncate(manifest: Path, name: str) -> Path:
    """Cut the largest chunk of an array in half."""
    chunk = max(
        (manifest.with_suffix(".zarr") / name).rglob("*"), key=lambda path: path.stat().st_size * path.is_file()
    )
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    return chunk


def refused(kind: type[ConffusionError], stage: Callable[[], Any], *parts: object) -> None:
    """The stage fails, and its message has these parts."""
    with pytest.raises(kind) as caught:
        stage()
    message = str(caught.value)
    assert [str(part) for part in parts if str(part) not in message] == []


def remove_outputs(*manifests: Path) -> None:
    for manifest in manifests:
        manifest.unlink(missing_ok=True)
        shutil.rmtree(manifest.with_suffix(".zarr"), ignore_errors=True)


def nothing_at(*manifests: Path) -> bool:
    return not any(manifest.exists() or manifest.with_suffix(".zarr").exists() for manifest in manifests)


# ---- truncated stores between stages


def test_truncated_images_stop_sampling(run: SmallRun) -> None:
    output = run.shard("calibration", 0)
    remove_outputs(output)
    chunk = truncate(run.images("calibration"), "condition")
    refused(StoreError, lambda: run.sample("calibration", 0, 3), chunk, TRUNCATED, "rerun the rule")
    assert nothing_at(output)


def test_truncated_shard_stops_extraction(run: SmallRun) -> None:
    output = run.bounds("dm_sb", "paper", "calibration")
    remove_outputs(output)
    chunk = truncate(run.shard("calibration", 1), "variants")
    refused(StoreError, lambda: run.extract("calibration", 3), chunk, TRUNCATED)
    assert nothing_at(output)


def test_missing_shard_stops_extraction(run: SmallRun) -> None:
    remove_outputs(run.shard("calibration", 1), run.bounds("dm_sb", "paper", "calibration"))
    refused(StoreError, lambda: run.extract("calibration", 3), "shard-1.zarr: no such store", "run the rule")
    assert nothing_at(run.bounds("dm_sb", "paper", "calibration"))


def test_truncated_images_stop_fine_tuning(run: SmallRun) -> None:
    shutil.rmtree(run.candidates)
    for protocol in ("paper", "guaranteed"):
        run.model(protocol).unlink()
    chunk = truncate(run.images("selection"), "target")
    refused(StoreError, run.finetune, chunk, TRUNCATED)
    assert not run.candidates.exists()
    assert not run.model("paper").exists() and not run.model("guaranteed").exists()


def test_truncated_images_stop_prediction_before_the_first_output_of_that_split(run: SmallRun) -> None:
    outputs = [run.bounds("n_conffusion", "paper", split) for split in ("selection", "calibration", "test")]
    remove_outputs(*outputs)
    chunk = truncate(run.images("calibration"), "mask")
    refused(StoreError, lambda: run.predict("paper"), chunk, TRUNCATED)
    assert nothing_at(*outputs[1:])


def test_truncated_bounds_stop_calibration_and_evaluation(run: SmallRun) -> None:
    for split, stage, result in (
        ("calibration", run.calibrate, "calibration.json"),
        ("test", run.evaluate, "metrics.json"),
    ):
        if split == "test":  # repair what the first round broke
            run.predict("guaranteed")
            run.calibrate("n_conffusion", "guaranteed")
        chunk = truncate(run.bounds("n_conffusion", "guaranteed", split), "upper")
        output = run.method_run("n_conffusion", "guaranteed") / result
        output.unlink()
        refused(StoreError, lambda stage=stage: stage("n_conffusion", "guaranteed"), chunk, TRUNCATED)
        assert not output.exists()


def test_bounds_of_other_images_stop_calibration(run: SmallRun) -> None:
    bounds, other = (run.bounds("dm_sb", "paper", split) for split in ("calibration", "test"))
    store = open_store(other)
    write_store(
        bounds, {name: read_array(store[name]) for name in ("lower", "upper")}, list(store.image_ids), store.attributes
    )
    refused(StoreError, lambda: run.calibrate("dm_sb", "paper"), bounds, run.images("calibration"), "different images")


def test_sampled_bounds_of_other_images_stop_dm_sba(run: SmallRun) -> None:
    other = run.bounds("dm_sb", "guaranteed", "test")
    refused(StoreError, lambda: run.finetune(run.finetuning_job("dm_sba"), other), "test.zarr: holds other images")
    refused(StoreError, lambda: run.finetune(run.finetuning_job("dm_sba")), "dm_sba: needs the sampled bounds")


def test_truncated_calibration_record_stops_evaluation(run: SmallRun) -> None:
    record = run.method_run("dm_sb", "paper") / "calibration.json"
    record.write_text(record.read_text()[:50])
    refused(StoreError, lambda: run.evaluate("dm_sb", "paper"), record, "delete it and rerun")


# ---- wrong or damaged weights


def test_prior_of_another_architecture_stops_sampling_and_fine_tuning(run: SmallRun) -> None:
    wider = prior_settings(run.task)
    wider = wider.model_copy(update={"options": {**wider.options, "inner_channel": 16}})
    refused(CheckpointError, lambda: run.finetune(run.finetuning_job(prior=wider)), run.prior, "priors_dir: null")
    output = run.root / "other.json"

    def sample() -> None:
        sample_variants(
            run.sampling_stage(prior=wider), CPU, checkpoint=run.prior, images=run.images("test"), shard=(0, 2),
            output=output,
        )  # fmt: skip

    refused(CheckpointError, sample, run.prior, "'inner_channel': 8", "'inner_channel': 16")
    assert nothing_at(output)


def test_altered_prior_stops_sampling(run: SmallRun) -> None:
    content = bytearray(run.prior.read_bytes())
    content[-1] ^= 1
    run.prior.write_bytes(content)
    refused(CheckpointError, lambda: run.sample("test", 0, 2), run.prior, "do not match their checksum")


def test_prior_in_the_place_of_a_model_stops_prediction(run: SmallRun) -> None:
    shutil.copy(run.prior, run.model("paper"))
    refused(CheckpointError, lambda: run.predict("paper"), run.model("paper"), "holds a prior")


def test_model_with_weights_left_out_stops_prediction(run: SmallRun) -> None:
    weights, record = load_checkpoint(run.model("paper"))
    name, _ = weights.popitem()
    save_checkpoint(run.model("paper"), weights, record)
    refused(CheckpointError, lambda: run.predict("paper"), run.model("paper"), name, "missing")


def test_no_candidates_stop_the_validity_assessment(run: SmallRun) -> None:
    empty = run.root / "empty"
    empty.mkdir()

    def trace() -> None:
        images = [run.images("test")]
        trace_candidates(SEED, CPU, candidates=empty, images=images, splits=run.splits, output=run.root / "curves")

    refused(StoreError, trace, empty, "rerun the rule finetune_method")
    assert not (run.root / "curves").exists()


# ---- too little for any guarantee


@pytest.mark.parametrize(("alpha", "delta"), [(0.01, 0.1), (0.3, 1e-9)])
def test_too_few_images_name_how_many_are_needed(run: SmallRun, alpha: float, delta: float) -> None:
    settings = CalibrationSettings(alpha=alpha, delta=delta, ucb="hoeffding", families=["additive"])
    output = run.method_run("n_conffusion", "guaranteed") / "calibration.json"
    output.unlink()
    with pytest.raises(CalibrationError, match=r"n_conffusion.*guaranteed.*\d+ images") as caught:
        run.calibrate("n_conffusion", "guaranteed", settings)
    assert "24 images" in str(caught.value)
    assert not output.exists()


def test_bounds_that_cannot_be_scaled_to_the_risk_are_refused(run: SmallRun) -> None:
    """Zero upper bounds stay zero however large the scale."""
    path = run.bounds("dm_sb", "guaranteed", "calibration")
    store = open_store(path)
    zeros = np.zeros(store["lower"].shape, dtype=np.float32)
    write_store(path, {"lower": zeros, "upper": zeros}, list(store.image_ids), store.attributes)
    with pytest.raises(CalibrationError, match=r"dm_sb.*guaranteed"):
        run.calibrate("dm_sb", "guaranteed", CALIBRATION)


# ---- splits


def test_folder_with_too_few_images_for_its_shares_is_refused(tmp_path: Path) -> None:
    folder, output = tmp_path / "photographs", tmp_path / "splits.csv"
    folder.mkdir()
    for k in range(6):
        Image.fromarray(np.full((SIDE, SIDE, 3), 40 * k, dtype=np.uint8)).save(folder / f"{k}.png")
    shares = {"finetune": 0.5, "selection": 0.05, "calibration": 0.2, "test": 0.25}
    values = faces().model_dump()
    dataset = DatasetSettings(
        **{**values, "name": "folder", "splits": shares, "folder": {**values["folder"], "path": str(folder)}}
    )
    with pytest.raises(DataError, match=r"'selection' would be empty.*dataset.splits.selection"):
        split_images(SmallRun.split_stage(dataset), output)
    assert not output.exists()


def test_damaged_splits_stop_the_preparation_of_images(run: SmallRun) -> None:
    lines = run.splits.read_text().splitlines()
    run.splits.write_text("\n".join([*lines, lines[1]]) + "\n")  # an image twice
    output = run.root / "again.json"

    def prepare() -> None:
        prepare_images(run.image_stage(), splits=run.splits, split="test", output=output)

    refused(DataError, prepare, run.splits, lines[1].split(",")[0])
    assert nothing_at(output)
