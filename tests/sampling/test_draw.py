"""Variants: pure functions of (seed, task, image id, variant number), whatever the batches, and stored as asked."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conffusion.core.device import Device
from conffusion.models import build_unet
from conffusion.sampling import (
    AdaptiveStopping,
    ChainSampler,
    NoiseSchedule,
    Solver,
    draw_variants,
    noise_schedule,
)
from conffusion.tasks import DegradedImages, Task
from tests import conformance

CPU = Device(torch.device("cpu"), bfloat16=False)
SCHEDULE = noise_schedule("cosine", 6)


@dataclass(frozen=True)
class Settings:
    """Everything but images and network."""

    solver: Solver
    n_variants: int = 3
    batch_size: int = 4
    dtype: str = "float32"
    device: Device = CPU


ANCESTRAL = Settings(Solver("ancestral", 6))
HIGHER_ORDER = Settings(Solver("dpmpp_2m_sde", 4))
BOTH_SOLVERS = pytest.mark.parametrize("settings", [ANCESTRAL, HIGHER_ORDER], ids=lambda some: some.solver.name)
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


def corrupted(ids: tuple[str, ...] = IDS, *, has_holes: bool = False, task: str = "t", seed: int = 7) -> DegradedImages:
    """Images whose pixels depend on their id alone."""
    images = [np.random.default_rng(sum(image_id.encode())).random((3, 16, 16)) for image_id in ids]
    condition = np.stack(images).astype(np.float32)
    mask = np.ones(condition.shape, dtype=np.uint8)
    if has_holes:
        mask[:] = 0
        mask[..., 4:12, 4:12] = 1
    lacking = Task(task, task, lambda target, *_: target, has_mask=has_holes)
    return DegradedImages(lacking, seed, ids, condition, mask)


def draw(
    inputs: DegradedImages,
    settings: Settings = ANCESTRAL,
    network: nn.Module | None = None,
    schedule: NoiseSchedule = SCHEDULE,
) -> Any:
    sampler = ChainSampler(network or Silent(), schedule, inputs, settings.solver, settings.dtype, settings.device)
    drawn = list(draw_variants(sampler, inputs, settings.n_variants, settings.batch_size))
    assert [one.row for one in drawn] == list(range(len(inputs)))
    return np.stack([one.variants for one in drawn])


@BOTH_SOLVERS
@pytest.mark.parametrize("has_holes", [False, True])
def test_noise_is_bitwise_the_same_in_any_batch_order_and_subset(settings: Settings, has_holes: bool) -> None:
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


@BOTH_SOLVERS
def test_network_samples_agree_for_other_batches_and_orders(settings: Settings, network: nn.Module) -> None:
    reference = draw(corrupted(), settings, network)
    for batch_size in (1, 6, 15):
        again = draw(corrupted(), replace(settings, batch_size=batch_size), network)
        np.testing.assert_allclose(again, reference, atol=1e-4)
    backwards = draw(corrupted(IDS[::-1]), settings, network)
    np.testing.assert_allclose(backwards[::-1], reference, atol=1e-4)


@pytest.mark.parametrize("change", [{"seed": 8}, {"task": "other"}], ids=str)
def test_another_seed_or_task_gives_other_variants(change: dict[str, Any]) -> None:
    assert (draw(corrupted(**change)) != draw(corrupted())).mean() > 0.9


@BOTH_SOLVERS
def test_variants_and_images_differ(settings: Settings, network: nn.Module) -> None:
    variants = draw(corrupted(), settings, network)
    assert variants.shape == (5, 3, 3, 16, 16)
    flat = variants.reshape(15, -1)
    for row in range(15):
        for other in range(row):
            assert (flat[row] != flat[other]).mean() > 0.5


def test_stored_types_hold_the_same_images(network: nn.Module) -> None:
    exact = draw(corrupted(), ANCESTRAL, network)
    assert exact.dtype == np.float32
    assert exact.min() >= 0 and exact.max() <= 1
    half = draw(corrupted(), replace(ANCESTRAL, dtype="float16"), network)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.astype(np.float32), exact, atol=3e-4)
    whole = draw(corrupted(), replace(ANCESTRAL, dtype="uint8"), network)
    assert whole.dtype == np.uint8
    np.testing.assert_allclose(whole / 255, exact, atol=0.5 / 255 + 1e-6)


@BOTH_SOLVERS
def test_known_pixels_of_every_variant_are_those_of_the_image(settings: Settings) -> None:
    inputs = corrupted(has_holes=True)
    variants = draw(inputs, settings)
    known = inputs.mask == 0
    for j in range(3):
        np.testing.assert_allclose(variants[:, j][known], inputs.condition[known], atol=1e-6)
    stored = draw(inputs, replace(settings, dtype="uint8"))
    assert (stored[:, 0][known] == np.round(inputs.condition[known] * 255)).mean() > 0.999  # ties of rounding


def test_shared_start_is_the_fill_of_the_condition() -> None:
    """With one step and no predicted noise a sample is its start, so the start can be read off."""
    one_step, inputs = noise_schedule("const", 1, linear_end=0.1), corrupted(has_holes=True)
    shared = draw(inputs, replace(ANCESTRAL, solver=replace(ANCESTRAL.solver, shared_start=True)), schedule=one_step)
    np.testing.assert_array_equal(shared[:, 0], shared[:, 1])
    fill = inputs.noise("fill")
    expected = np.clip((fill / np.sqrt(0.9) + 1) / 2, 0, 1)
    hole = inputs.mask == 1
    np.testing.assert_allclose(shared[:, 0][hole], expected[hole], atol=1e-6)
    own = draw(inputs, ANCESTRAL, schedule=one_step)
    assert (own[:, 0][hole] != own[:, 1][hole]).mean() > 0.5
    assert (own[:, 0][hole] != shared[:, 0][hole]).mean() > 0.5


@BOTH_SOLVERS
def test_variants_from_a_shared_start_differ_by_their_steps(settings: Settings) -> None:
    inputs = corrupted(has_holes=True)
    shared = draw(inputs, replace(settings, solver=replace(settings.solver, shared_start=True)))
    hole = inputs.mask == 1
    assert (shared[:, 0][hole] != shared[:, 1][hole]).mean() > 0.3  # the rest is clipped
    assert (shared[:, 0][hole] != draw(inputs, settings)[:, 0][hole]).mean() > 0.3  # the rest is clipped


def test_drawing_leaves_the_images_and_the_global_generator_alone(network: nn.Module) -> None:
    inputs = corrupted(has_holes=True)
    before, state = inputs.condition.copy(), torch.get_rng_state()
    draw(inputs, ANCESTRAL, network)
    np.testing.assert_array_equal(inputs.condition, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_drawing_stops_for_precise_images_alone(network: nn.Module) -> None:
    """An image whose variants are all alike needs one look; the others go on to the end, and none is another's."""
    inputs, n_variants = corrupted(), 12
    every = draw(inputs, replace(ANCESTRAL, n_variants=n_variants))

    class StopsAtRow1(AdaptiveStopping):
        def should_stop(self, variants: Any, mask: Any) -> bool:
            return bool(np.array_equal(variants[0], every[1, 0]))

    for batch_size in (1, 5, 64):
        sampler = ChainSampler(Silent(), SCHEDULE, inputs, ANCESTRAL.solver, "float32", CPU)
        drawn = list(draw_variants(sampler, inputs, n_variants, batch_size, StopsAtRow1(0.1, 0.05, 5)))
        assert [len(one.variants) for one in drawn] == [12, 5, 12, 12, 12]
        for one in drawn:
            np.testing.assert_array_equal(one.variants, every[one.row, : len(one.variants)])


def test_memory_that_does_not_suffice_halves_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, sizes = draw(corrupted()), []
    launch = ChainSampler.launch

    def launch_small(self: ChainSampler, chains: Any) -> Any:
        sizes.append(len(chains))
        if len(chains) > 2:
            raise MemoryError("can't allocate memory")
        return launch(self, chains)

    monkeypatch.setattr(ChainSampler, "launch", launch_small)
    np.testing.assert_array_equal(draw(corrupted(), replace(ANCESTRAL, batch_size=8)), reference)
    assert max(sizes) == 8
    assert sizes.count(2) >= 7


def test_where_networks_are_compiled_they_see_one_batch_size(network: nn.Module) -> None:
    """Batches are filled, the last one too, because every other size would be compiled anew."""
    sizes = []

    class Counting(nn.Module):
        kind = "sr3"

        def forward(self, x: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
            sizes.append(len(x))
            return network(x, level)

    compiling = Device(torch.device("cpu"), bfloat16=False, compiles=True)
    settings = replace(HIGHER_ORDER, device=compiling)
    again = draw(corrupted(), settings, Counting())
    np.testing.assert_allclose(again, draw(corrupted(), HIGHER_ORDER, network), atol=1e-4)
    assert set(sizes) == {4}
