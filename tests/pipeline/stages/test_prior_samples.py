"""Samples of the priors for the contact sheet: the right images beside each other, and repeatable."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conffusion.config.schema import PriorSettings
from conffusion.pipeline.settings import PriorSamplesStage, SamplingStage
from conffusion.pipeline.stages.prior_samples import PriorSampleFiles, generations, restorations, sample_priors
from conffusion.store import open_store, read_array
from conffusion.training.priors import PriorJob, write_prior
from tests.methods.small_specs import ADM, SIDE
from tests.pipeline.stages.small_run import CPU, SAMPLING, SCHEDULE, SEED, SmallRun, prior_settings

N_CLASSES = 9  # bundled photographs


@pytest.fixture
def generic(tmp_path: Path) -> tuple[PriorSettings, Path]:
    """An unconditional prior, hardly trained, and its weights."""
    torch.set_num_threads(1)
    prior = PriorSettings(
        network="adm", options={**ADM, "num_classes": N_CLASSES}, task=None,
        schedule={**SCHEDULE, "name": "cosine", "n_timesteps": 20, "respacing": 5},
        training={"images": "photos", "n_images": 9, "n_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "ema": 0.9},
    )  # fmt: skip
    path = tmp_path / "generic.safetensors"
    write_prior(PriorJob("generic", prior, {}, SIDE, SEED), CPU, output=path)
    return prior, path


def test_restorations_stand_beside_truth_and_condition(finished: SmallRun) -> None:
    images = finished.images("test")
    job = SamplingStage(prior_settings(finished.task), SAMPLING, SEED, n_images=3)
    sheet = restorations(job, CPU, checkpoint=finished.prior, images=images)
    assert sheet.shape == (3, 2 + SAMPLING.n_variants, 3, SIDE, SIDE)
    store = open_store(images)
    np.testing.assert_array_equal(sheet[:, 0], read_array(store["target"])[:3])
    np.testing.assert_array_equal(sheet[:, 1], read_array(store["condition"])[:3])
    variants = read_array(open_store(finished.shard("test", 0))["variants"])[:3]
    np.testing.assert_allclose(sheet[:, 2:], variants / 255, atol=1.5 / 255)


def test_generated_images_differ_by_class_and_repeat(generic: tuple[PriorSettings, Path]) -> None:
    prior, path = generic
    images = generations(prior, SEED, CPU, checkpoint=path, n_images=2)
    assert images.shape == (N_CLASSES, 2, 3, SIDE, SIDE)
    assert images.min() >= 0 and images.max() <= 1
    assert len({image.tobytes() for image in images.reshape(-1, 3 * SIDE**2)}) == 2 * N_CLASSES
    np.testing.assert_array_equal(images, generations(prior, SEED, CPU, checkpoint=path, n_images=2))


def test_every_diffusion_prior_is_in_the_file(
    copied: SmallRun, generic: tuple[PriorSettings, Path], tmp_path: Path
) -> None:
    encoder = generic[0].model_copy(update={"network": "resnext_small", "schedule": None})
    priors = {"own": prior_settings(copied.task), "generic": generic[0], "encoder": encoder}
    checkpoints = {"own": copied.prior, "generic": generic[1], "encoder": tmp_path / "not_read"}
    output = tmp_path / "samples.npz"
    images = {copied.task: copied.images("test")}
    stage = PriorSamplesStage(priors, SAMPLING, SEED, "float32")
    sample_priors(stage, CPU, PriorSampleFiles(checkpoints, images, output))
    with np.load(output) as samples:
        assert {name: len(rows) for name, rows in samples.items()} == {"own": 6, "generic": N_CLASSES}
