"""Variants: pure functions of (seed, task, image id, variant number), whatever the batches, and stored as asked."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conffusion.compute import Compute
from conffusion.methods.random_inputs import image_noise
from conffusion.models import build_unet
from conffusion.sampling import NoiseSchedule, Sampling, SamplingInput, draw_variants, noise_schedule
from tests import conformance

CPU = Compute(torch.device("cpu"), bfloat16=False)
SCHEDULE = noise_schedule("cosine", 6)
ANCESTRAL = Sampling("ancestral", 6, 3, shared_start=False, batch_size=4, storage="float32")
HIGHER_ORDER = replace(ANCESTRAL, solver="dpmpp_2m_sde", n_steps=4)
IDS = ("a", "b", "ü-3", "d", "e")


class Silent(nn.Module):
    """A network that predicts no noise: its samples show the sampler's own noise, pixel by pixel."""

    kind = "sr3"

    def forward(self, x: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x[:, :3])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield


@pytest.fixture(scope="module")
def network() -> nn.Module:
    config = conformance.load("sr3/small_net")[0]["config"]
    net = build_unet("sr3", {**config, "inner_channel": 8, "norm_groups": 4})
    conformance.fill_state_dict(net)
    return net.eval()


def corrupted(ids: tuple[str, ...] = IDS, *, has_holes: bool = False, task: str = "t", seed: int = 7) -> SamplingInput:
    """Images whose pixels depend on their id alone."""
    images = [np.random.default_rng(sum(image_id.encode())).random((3, 16, 16)) for image_id in ids]
    condition = np.stack(images).astype(np.float32)
    mask = np.ones(condition.shape, dtype=np.uint8)
    if has_holes:
        mask[:] = 0
        mask[..., 4:12, 4:12] = 1
    return SamplingInput(task, seed, ids, condition, mask, has_holes)


def draw(
    inputs: SamplingInput,
    settings: Sampling = ANCESTRAL,
    network: nn.Module | None = None,
    schedule: NoiseSchedule = SCHEDULE,
) -> Any:
    return draw_variants(network or Silent(), schedule, inputs, settings, CPU)


@pytest.mark.parametrize("settings", [ANCESTRAL, HIGHER_ORDER], ids=lambda settings: settings.solver)
@pytest.mark.parametrize("has_holes", [False, True])
def test_noise_is_bitwise_the_same_in_any_batch_order_and_subset(settings: Sampling, has_holes: bool) -> None:
    reference = draw(corrupted(has_holes=has_holes), settings)
    for batch_size in (1, 2, 7, 100):
        again = draw(corrupted(has_holes=has_holes), replace(settings, batch_size=batch_size))
        np.testing.assert_array_equal(again, reference)
    order = [3, 0, 4, 1, 2]
    shuffled = draw(corrupted(tuple(IDS[k] for k in order), has_holes=has_holes), settings)
    np.testing.assert_array_equal(shuffled, reference[order])
    np.testing.assert_array_equal(draw(corrupted(IDS[2:4], has_holes=has_holes), settings), reference[2:4])


def test_first_variants_stay_when_more_are_drawn() -> None:
    more = draw(corrupted(), replace(ANCESTRAL, n_variants=5))
    np.testing.assert_array_equal(more[:, :3], draw(corrupted()))


@pytest.mark.parametrize("settings", [ANCESTRAL, HIGHER_ORDER], ids=lambda settings: settings.solver)
def test_network_samples_agree_for_other_batches_and_orders(settings: Sampling, network: nn.Module) -> None:
    reference = draw(corrupted(), settings, network)
    for batch_size in (1, 6, 15):
        again = draw(corrupted(), replace(settings, batch_size=batch_size), network)
        np.testing.assert_allclose(again, reference, atol=1e-4)
    backwards = draw(corrupted(IDS[::-1]), settings, network)
    np.testing.assert_allclose(backwards[::-1], reference, atol=1e-4)


@pytest.mark.parametrize("change", [{"seed": 8}, {"task": "other"}], ids=str)
def test_another_seed_or_task_gives_other_variants(change: dict[str, Any]) -> None:
    assert (draw(corrupted(**change)) != draw(corrupted())).mean() > 0.9


@pytest.mark.parametrize("settings", [ANCESTRAL, HIGHER_ORDER], ids=lambda settings: settings.solver)
def test_variants_and_images_differ(settings: Sampling, network: nn.Module) -> None:
    variants = draw(corrupted(), settings, network)
    assert variants.shape == (5, 3, 3, 16, 16)
    flat = variants.reshape(15, -1)
    for row in range(15):
        for other in range(row):
            assert (flat[row] != flat[other]).mean() > 0.5


def test_storage_types_hold_the_same_images(network: nn.Module) -> None:
    exact = draw(corrupted(), ANCESTRAL, network)
    assert exact.dtype == np.float32
    assert exact.min() >= 0 and exact.max() <= 1
    half = draw(corrupted(), replace(ANCESTRAL, storage="float16"), network)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.astype(np.float32), exact, atol=3e-4)
    whole = draw(corrupted(), replace(ANCESTRAL, storage="uint8"), network)
    assert whole.dtype == np.uint8
    np.testing.assert_allclose(whole / 255, exact, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("settings", [ANCESTRAL, HIGHER_ORDER], ids=lambda settings: settings.solver)
def test_known_pixels_of_every_variant_are_those_of_the_image(settings: Sampling) -> None:
    inputs = corrupted(has_holes=True)
    variants = draw(inputs, settings)
    known = inputs.mask == 0
    for j in range(3):
        np.testing.assert_allclose(variants[:, j][known], inputs.condition[known], atol=1e-6)
    stored = draw(inputs, replace(settings, storage="uint8"))
    assert (stored[:, 0][known] == np.round(inputs.condition[known] * 255)).mean() > 0.999  # ties of rounding


def test_shared_start_is_the_fill_of_the_condition() -> None:
    """With one step and no predicted noise a sample is its start, so the start can be read off."""
    one_step, inputs = noise_schedule("const", 1, linear_end=0.1), corrupted(has_holes=True)
    shared = draw(inputs, replace(ANCESTRAL, shared_start=True), schedule=one_step)
    np.testing.assert_array_equal(shared[:, 0], shared[:, 1])
    fill = image_noise("fill", 7, "t", IDS, (3, 16, 16))
    expected = np.clip((fill / np.sqrt(0.9) + 1) / 2, 0, 1)
    hole = inputs.mask == 1
    np.testing.assert_allclose(shared[:, 0][hole], expected[hole], atol=1e-6)
    own = draw(inputs, ANCESTRAL, schedule=one_step)
    assert (own[:, 0][hole] != own[:, 1][hole]).mean() > 0.5
    assert (own[:, 0][hole] != shared[:, 0][hole]).mean() > 0.5


@pytest.mark.parametrize("settings", [ANCESTRAL, HIGHER_ORDER], ids=lambda settings: settings.solver)
def test_variants_from_a_shared_start_differ_by_their_steps(settings: Sampling) -> None:
    inputs = corrupted(has_holes=True)
    shared = draw(inputs, replace(settings, shared_start=True))
    hole = inputs.mask == 1
    assert (shared[:, 0][hole] != shared[:, 1][hole]).mean() > 0.5
    assert (shared[:, 0][hole] != draw(inputs, settings)[:, 0][hole]).mean() > 0.5


def test_drawing_leaves_the_images_and_the_global_generator_alone(network: nn.Module) -> None:
    inputs = corrupted(has_holes=True)
    before, state = inputs.condition.copy(), torch.get_rng_state()
    draw(inputs, ANCESTRAL, network)
    np.testing.assert_array_equal(inputs.condition, before)
    assert torch.equal(torch.get_rng_state(), state)
