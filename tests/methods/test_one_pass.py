"""Bounds of many images: the same whatever the batches, from inputs that belong to the image alone."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from conffusion.core.device import Device
from conffusion.methods.one_pass import predict_bounds
from conffusion.methods.predictor import BoundPredictor
from conffusion.tasks import DegradedImages, build_task
from tests.methods.small_specs import SIDE, SPECS

CPU = Device(torch.device("cpu"), bfloat16=False)
IDS = tuple(f"größe-{k}" for k in range(7))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield


def lively(kind: str) -> BoundPredictor:
    torch.manual_seed(1)
    predictor = SPECS[kind].build(None)
    for parameter in predictor.parameters():
        nn.init.normal_(parameter, std=0.2)
    return predictor


def images() -> DegradedImages:
    condition = np.random.default_rng(0).random((7, 3, SIDE, SIDE), dtype=np.float32)
    mask = np.zeros(condition.shape, dtype=np.uint8)
    mask[..., 4:12, 4:12] = 1
    return DegradedImages(build_task("inpainting"), 3, IDS, condition, mask)


@pytest.mark.parametrize("kind", list(SPECS))
def test_bounds_do_not_depend_on_batches_or_order(kind: str) -> None:
    predictor, some = lively(kind), images()
    lower, upper, seconds = predict_bounds(predictor, some, CPU)
    assert lower.shape == upper.shape == some.condition.shape
    assert lower.dtype == upper.dtype == np.float32
    assert min(lower.min(), upper.min()) >= 0 and max(lower.max(), upper.max()) <= 1
    assert not np.allclose(lower, upper, atol=0.01)
    assert seconds > 0
    for batch_size in (1, 3):
        again = predict_bounds(predictor, some, CPU, batch_size)
        np.testing.assert_allclose(again[0], lower, atol=1e-4)
        np.testing.assert_allclose(again[1], upper, atol=1e-4)
    order = [4, 0, 6]
    np.testing.assert_allclose(predict_bounds(predictor, some.take(order), CPU)[0], lower[order], atol=1e-4)


@pytest.mark.parametrize("kind", ["palette", "adm"])
def test_random_inputs_are_those_of_seed_task_and_image(kind: str) -> None:
    predictor, some = lively(kind).eval(), images()
    lower, _, _ = predict_bounds(predictor, some, CPU)
    noise = some.noise(predictor.noise_purpose)
    labels = torch.from_numpy(some.classes(5)) if kind == "adm" else None
    with torch.no_grad():
        bounds = predictor(
            torch.from_numpy(some.condition * 2 - 1), torch.from_numpy(some.mask), torch.from_numpy(noise), labels
        )
    np.testing.assert_allclose(lower, (bounds.lower.numpy() + 1) / 2, atol=1e-5)
    for other in (
        replace(some, seed=4),
        replace(some, task=build_task("denoising")),
        replace(some, image_ids=IDS[::-1]),
    ):
        assert not np.allclose(predict_bounds(predictor, other, CPU)[0], lower, atol=1e-3)


def test_prediction_switches_training_off_and_leaves_weights_and_images_alone() -> None:
    predictor, some = lively("sr3").train(), images()
    before = {name: value.clone() for name, value in predictor.state_dict().items()}
    condition = some.condition.copy()
    predict_bounds(predictor, some, CPU)
    assert not predictor.training
    assert all(torch.equal(value, before[name]) for name, value in predictor.state_dict().items())
    np.testing.assert_array_equal(some.condition, condition)
