"""Packages from the files of a finished run: what they hold, and that they predict what the run predicted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from conffusion import Predictor
from conffusion.calibration.record import read_calibration
from conffusion.errors import PackageError
from conffusion.images.resize import to_uint8
from conffusion.inference.from_run import package_run
from conffusion.inference.reader import open_reader
from conffusion.metrics import image_losses
from conffusion.store import open_store
from tests.methods.small_specs import SIDE
from tests.pipeline.stages.small_run import CALIBRATION, DEGRADATION, SAMPLING, SEED, SmallRun

TASK = "super_resolution"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """Calibrated: DM_SB and a fine-tuned network, by both protocols."""
    small = SmallRun(tmp_path_factory.mktemp("small"), TASK)
    small.prepare()
    small.train_prior()
    for split, n_shards in (("selection", 2), ("calibration", 3)):
        for k in range(n_shards):
            small.sample(split, k, n_shards)
        small.extract(split, n_shards)
    small.finetune()
    for protocol in ("guaranteed", "paper"):
        small.predict(protocol)
        small.calibrate("n_conffusion", protocol)
        small.calibrate("dm_sb", protocol)
    config = {
        "run": "small", "seed": SEED, "device": "cpu", "precision": "float32", "priors_dir": None,
        "dataset": {"name": "faces"}, "calibration": {"alpha": CALIBRATION.alpha}, "sampling": SAMPLING.model_dump(),
        "tasks": {TASK: {"degradation": DEGRADATION[TASK], "prior": "own"}},
    }  # fmt: skip
    (small.root / "config.yaml").write_text(yaml.safe_dump(config))
    (small.root / "priors").mkdir()
    shutil.copy(small.prior, small.root / "priors" / "own.safetensors")
    return small


@pytest.mark.parametrize("method", ["n_conffusion", "dm_sb"])
def test_a_package_holds_what_the_run_says(run: SmallRun, method: str) -> None:
    package = package_run(run.root, TASK, method)
    record = package.record
    assert (record.task, record.method, record.protocol, record.seed) == (TASK, method, "guaranteed", SEED)
    assert (record.image_size, record.overlap, record.degradation) == (SIDE, SIDE // 4, {"factor": 4})
    assert record.sorts_bounds and not record.bfloat16
    assert package.calibration == read_calibration(run.method_run(method, "guaranteed") / "calibration.json")
    on = record.calibrated_on
    assert (on.smallest, on.largest, on.masks, on.channels) == ((SIDE, SIDE), (SIDE, SIDE), "none", (3,))
    assert on.description == "faces, run small, split calibration" and package.guarantee.holds
    weights = run.model("guaranteed") if method == "n_conffusion" else run.prior
    assert package.weights == weights.read_bytes()
    if method == "n_conffusion":
        assert record.sampling is None
    else:
        assert record.sampling is not None
        assert record.sampling.quantile == CALIBRATION.alpha / 2  # of variants, at either end
        expected = SAMPLING.model_dump(include={"solver", "n_steps", "n_variants", "shared_start", "dtype"})
        assert record.sampling.model_dump(exclude={"quantile"}) == expected


def test_the_evidence_is_that_of_the_calibration_images(run: SmallRun) -> None:
    evidence = package_run(run.root, TASK, "n_conffusion").evidence
    folder = run.method_run("n_conffusion", "guaranteed")
    bounds = open_store(folder / "bounds" / "calibration.zarr")
    images = open_store(run.root / TASK / "images" / "calibration.zarr")
    ends = read_calibration(folder / "calibration.json").apply(bounds["lower"][:], bounds["upper"][:])
    losses, _ = image_losses(*ends, images["target"][:], images["mask"][:])
    np.testing.assert_array_equal(evidence.losses, losses)
    assert evidence.features.shape == (len(losses), 14)


@pytest.mark.parametrize("protocol", ["guaranteed", "paper"])
def test_one_tile_has_the_bounds_of_the_run_to_the_last_bit(run: SmallRun, tmp_path: Path, protocol: str) -> None:
    predictor = Predictor.from_run(run.root, TASK, "n_conffusion", protocol, device="cpu", batch_size=100)
    images = open_store(run.root / TASK / "images" / "test.zarr")
    for number, target in enumerate(images["target"][:]):
        Image.fromarray(to_uint8(target).transpose(1, 2, 0)).save(tmp_path / f"{number:02d}.png")
    bounds = open_store(run.method_run("n_conffusion", protocol) / "bounds" / "test.zarr")
    lower, upper = predictor.calibration.apply(bounds["lower"][:], bounds["upper"][:])
    for number, (_, interval) in enumerate(predictor.map(open_reader(predictor.package, [], [tmp_path]))):
        np.testing.assert_array_equal(interval.lower, lower[number].astype(np.float32))
        np.testing.assert_array_equal(interval.upper, upper[number].astype(np.float32))
    assert number == len(images.image_ids) - 1


def test_the_protocol_of_the_paper_guarantees_nothing(run: SmallRun) -> None:
    package = package_run(run.root, TASK, "n_conffusion", "paper")
    assert package.record.protocol == "paper" and not package.record.sorts_bounds
    assert not package.guarantee.holds and package.calibration.unit == "pixel"


def test_runs_of_earlier_versions_have_other_keys(run: SmallRun, tmp_path: Path) -> None:
    shutil.copytree(run.root, tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    sampling = config["sampling"]
    sampling["storage"], sampling["settling"] = sampling.pop("dtype"), sampling.pop("adaptive_stopping")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    before, now = (package_run(folder, TASK, "dm_sb", name="m") for folder in (tmp_path / "run", run.root))
    assert before.record == now.record


def test_what_a_run_lacks_is_named(run: SmallRun, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="has no config.yaml, so it is no run"):
        package_run(tmp_path, TASK, "dm_sb")
    with pytest.raises(PackageError, match="is missing; the run has super_resolution/dm_sb/guaranteed"):
        package_run(run.root, TASK, "resnext")
    shutil.copytree(run.root, tmp_path / "run")
    file = tmp_path / "run" / TASK / "dm_sb" / "guaranteed" / "calibration.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "feasible": False}))
    with pytest.raises(PackageError, match="does not control the risk"):
        package_run(tmp_path / "run", TASK, "dm_sb")
    shutil.rmtree(tmp_path / "run" / "priors")
    with pytest.raises(PackageError, match="the weights of super_resolution are missing"):
        package_run(tmp_path / "run", TASK, "dm_sb", "paper")
