"""One-pass bounds equal the official ones; holes, noise and classes act where they should and nowhere else."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conffusion.core.device import Device
from conffusion.errors import ShapeError
from conffusion.methods.models import PredictorSpec
from conffusion.methods.predictor import ONE_PASS, BoundPredictor
from conffusion.models import build_unet
from conffusion.models.networks import Architecture
from conffusion.models.schedules import NoiseSchedule, noise_schedule
from tests import conformance

TOLERANCE = 1e-4
COSINE = {"name": "cosine", "n_timesteps": 200}
LINEAR = {"name": "linear", "n_timesteps": 1000, "linear_start": 1e-4, "linear_end": 0.02, "respacing": 250}
SCHEDULES: dict[str, Any] = {"sr3": COSINE, "palette": COSINE, "adm": LINEAR}
ENCODER = Architecture("resnext_small", {"n_classes": 9}, None)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield


class GivenHeads(nn.Module):
    """Returns given head outputs and remembers what it was shown."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self._outputs, self.seen = outputs, list[tuple[Tensor, Tensor, Tensor | None]]()

    def heads(self, x: Tensor, level: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        self.seen.append((x, level, labels))
        return self._outputs, self._outputs, self._outputs


def official_predictor(kind: str, description: dict[str, Any], step: int, *, has_holes: bool) -> BoundPredictor:
    network = build_unet(kind, description["config"], bounds=True)
    conformance.fill_state_dict(network, prefix=description["weights"]["prefix"])
    schedule = noise_schedule(**SCHEDULES[kind])
    return BoundPredictor(network, kind, schedule, step / schedule.n_timesteps, has_holes).eval()


def tensors(description: dict[str, Any]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(conformance.make(rule)) for key, rule in description["inputs"].items()}


@pytest.mark.parametrize("step", [0, 60, 155])
@torch.no_grad()
def test_super_resolution_bounds_equal_the_official_ones(step: int) -> None:
    description, arrays = conformance.load("sr3/one_step")
    condition = tensors(description)["low_res_upsampled"]
    predictor = official_predictor("sr3", description, step, has_holes=False)
    bounds = predictor(condition, torch.ones_like(condition), torch.randn(condition.shape))
    for name in ("lower", "upper"):
        assert conformance.max_diff(description, arrays, f"{name}_t{step}", getattr(bounds, name)) < TOLERANCE
    clamped = float((torch.stack([bounds.lower, bounds.upper]).abs() == 1).float().mean())
    assert clamped == pytest.approx(description["values"][f"t{step}"]["fraction_clamped"], abs=1e-3)


@pytest.mark.parametrize("step", [155, 20])
@torch.no_grad()
def test_inpainting_bounds_equal_the_official_ones_in_the_hole(step: int) -> None:
    description, arrays = conformance.load("palette/one_step")
    inputs = tensors(description)
    truth, mask = inputs["truth"], inputs["mask"].expand_as(inputs["truth"])
    grey_hole = truth * (1 - mask)
    predictor = official_predictor("palette", description, step, has_holes=True)
    bounds = predictor(grey_hole, mask, inputs["fill_noise"])
    filled = official_predictor("palette", description, step, has_holes=False)(
        grey_hole + inputs["fill_noise"] * mask, torch.ones_like(mask), torch.zeros_like(mask)
    )
    for name in ("lower", "upper"):
        assert conformance.max_diff(description, arrays, f"{name}_t{step}", getattr(filled, name)) < TOLERANCE
        assert torch.equal(getattr(bounds, name)[mask == 1], getattr(filled, name)[mask == 1])
        assert torch.equal(getattr(bounds, name)[mask == 0], truth[mask == 0])


@pytest.mark.parametrize("case", ["sr", "inpainting"])
@torch.no_grad()
def test_generic_network_without_mapped_steps_is_official_altogether(case: str) -> None:
    description, arrays = conformance.load("adm/one_step")
    recipe, inputs = description["cases"][case], tensors(description)
    network = build_unet("adm", description["config"], bounds=True).eval()
    conformance.fill_state_dict(network)
    mask = inputs["mask"].expand_as(inputs["image"])
    condition = inputs["image"] * (1 - mask) if case == "inpainting" else inputs["image"]
    noise = torch.from_numpy(conformance.Draws(recipe["noise_seed"]).next(condition.shape))
    schedule, time = noise_schedule(**LINEAR), recipe["prediction_time_step"] / 250
    predictor = BoundPredictor(network, "adm", schedule, time, has_holes=False, maps_timestep=False)
    bounds = predictor(condition, mask, noise, torch.tensor(description["classes"]))
    for name in ("lower", "upper"):
        assert conformance.max_diff(description, arrays, f"{case}_{name}", getattr(bounds, name)) < 1e-4


@pytest.mark.parametrize("case", ["sr", "inpainting"])
def test_generic_network_sees_the_official_input_and_its_heads_are_read_the_official_way(case: str) -> None:
    """By default the network is told the original step, which the official code forgets to map."""
    description, arrays = conformance.load("adm/one_step")
    recipe, inputs = description["cases"][case], tensors(description)
    mask = inputs["mask"].expand_as(inputs["image"])
    condition = inputs["image"] * (1 - mask) if case == "inpainting" else inputs["image"]
    noise = torch.from_numpy(conformance.Draws(recipe["noise_seed"]).next(condition.shape))
    network = GivenHeads(torch.cat([torch.from_numpy(arrays[f"{case}_head_lower"]), torch.full_like(condition, 9)], 1))
    time = recipe["prediction_time_step"] / 250
    predictor = BoundPredictor(network, "adm", noise_schedule(**LINEAR), time, has_holes=False)
    bounds = predictor(condition, mask, noise, torch.tensor(description["classes"]))
    ((x, level, labels),) = network.seen
    assert conformance.max_diff(description, arrays, f"{case}_noisy_input", x) < 1e-6
    assert level.tolist() == [recipe["timestep_map_entry"]] * 2
    assert labels is not None and labels.tolist() == description["classes"]
    assert conformance.max_diff(description, arrays, f"{case}_lower", bounds.lower) < 1e-6


@pytest.mark.parametrize("kind", ["sr3", "palette"])
def test_conditional_networks_are_shown_their_second_input(kind: str) -> None:
    condition = torch.rand(2, 3, 4, 4) * 2 - 1
    network = GivenHeads(torch.zeros(2, 3, 4, 4))
    predictor = BoundPredictor(network, kind, noise_schedule(**COSINE), 0.3, has_holes=False)
    predictor(condition, torch.ones_like(condition), torch.randn(condition.shape))
    ((x, level, _),) = network.seen
    second = torch.zeros_like(condition) if kind == "sr3" else condition
    assert torch.equal(x, torch.cat([condition, second], 1))
    abar = noise_schedule(**COSINE).alphas_cumprod[60]
    np.testing.assert_allclose(level, [[abar**0.5 if kind == "sr3" else abar]] * 2, rtol=1e-6)


def narrow_predictor(kind: str, *, has_holes: bool, time: float = 0.1) -> BoundPredictor:
    """A small network of each kind with lively weights."""
    torch.manual_seed(3)
    if kind == "encoder":
        predictor = PredictorSpec(ENCODER, time, has_holes).build(None)
        for parameter in predictor.network.head_convs.parameters():  # they start at zero
            nn.init.normal_(parameter, std=0.1)
        return predictor.eval()
    config = conformance.load(f"{kind}/small_net")[0]["config"]
    predictor = PredictorSpec(Architecture(kind, config, SCHEDULES[kind]), time, has_holes).build(None)
    conformance.fill_state_dict(predictor.network)
    return predictor.eval()


def hole_inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(2, 3, 32, 32)
    mask[..., 8:24, 8:24] = 1
    condition = (torch.rand(mask.shape, generator=generator) * 2 - 1) * (1 - mask)
    return condition, mask, torch.randn(mask.shape, generator=generator)


def labels_for(predictor: BoundPredictor) -> Tensor | None:
    return torch.tensor([0, 1]) if getattr(predictor.network, "n_classes", 0) else None


@pytest.mark.parametrize("kind", list(ONE_PASS))
@torch.no_grad()
def test_known_pixels_have_intervals_of_zero_width(kind: str) -> None:
    predictor = narrow_predictor(kind, has_holes=True)
    condition, mask, noise = hole_inputs()
    for bound in predictor(condition, mask, noise, labels_for(predictor)):
        assert torch.equal(bound[mask == 0], condition[mask == 0])
        assert (bound[mask == 1] != condition[mask == 1]).float().mean() > 0.9
        assert bound.abs().max() <= 1


@pytest.mark.parametrize("kind", ["sr3", "palette"])
@torch.no_grad()
def test_fill_noise_acts_in_the_hole_only(kind: str) -> None:
    predictor = narrow_predictor(kind, has_holes=True)
    condition, mask, noise = hole_inputs()
    reference = predictor(condition, mask, noise).lower
    assert torch.equal(predictor(condition, mask, noise + 5 * (1 - mask)).lower, reference)
    assert not torch.equal(predictor(condition, mask, noise + mask).lower, reference)
    assert torch.equal(predictor(condition + mask / 2, mask, noise).lower, reference)  # the hole's content is not read
    assert predictor.noise_purpose == "fill"


@pytest.mark.parametrize("kind", ["sr3", "palette", "encoder"])
@torch.no_grad()
def test_noise_is_not_used_where_there_is_no_hole(kind: str) -> None:
    predictor = narrow_predictor(kind, has_holes=False)
    condition, _, noise = hole_inputs()
    everywhere = torch.ones_like(condition)
    assert torch.equal(predictor(condition, everywhere, noise).upper, predictor(condition, everywhere, -noise).upper)


@torch.no_grad()
def test_generic_network_leaves_holes_grey_and_noises_the_whole_input() -> None:
    predictor = narrow_predictor("adm", has_holes=True)
    condition, mask, noise = hole_inputs()
    reference = predictor(condition, mask, noise, labels_for(predictor)).lower
    for place in (mask, 1 - mask):
        assert not torch.equal(predictor(condition, mask, noise + place, labels_for(predictor)).lower, reference)
    assert predictor.noise_purpose == "forward"


@torch.no_grad()
def test_class_label_matters_and_must_be_given() -> None:
    predictor = narrow_predictor("adm", has_holes=False)
    condition, mask, noise = hole_inputs()
    first = predictor(condition, mask, noise, torch.tensor([0, 0])).lower
    assert not torch.equal(predictor(condition, mask, noise, torch.tensor([1, 1])).lower, first)
    with pytest.raises(ShapeError, match="class_labels"):
        predictor(condition, mask, noise)


@pytest.mark.parametrize("has_holes", [False, True])
@torch.no_grad()
def test_encoder_starts_at_the_condition(has_holes: bool) -> None:
    predictor = PredictorSpec(ENCODER, 0.0, has_holes).build(None)
    condition, mask, noise = hole_inputs()
    for bound in predictor(condition, mask, noise):
        assert torch.equal(bound, condition)


@torch.no_grad()
def test_half_precision_changes_little_and_bounds_stay_float32() -> None:
    predictor = narrow_predictor("sr3", has_holes=False)
    condition, _, noise = hole_inputs()
    exact = predictor(condition, torch.ones_like(condition), noise).lower
    with Device(torch.device("cpu"), bfloat16=True).autocast():
        rough = predictor(condition, torch.ones_like(condition), noise).lower
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.1


def asked_step(schedule: NoiseSchedule, time: float) -> int:
    network = GivenHeads(torch.zeros(1, 3, 1, 1))
    image = torch.zeros(1, 3, 1, 1)
    BoundPredictor(network, "adm", schedule, time, has_holes=False)(image, image, image)
    return int(network.seen[0][1])


@pytest.mark.parametrize(("time", "step"), [(0.0, 0), (0.1, 20), (0.775, 155), (0.999, 199)])
def test_prediction_time_is_a_share_of_the_schedule(time: float, step: int) -> None:
    assert asked_step(noise_schedule(**COSINE), time) == step


@pytest.mark.parametrize("n_timesteps", [100, 200])
def test_every_step_of_a_schedule_can_be_named_by_its_share(n_timesteps: int) -> None:
    schedule = noise_schedule("cosine", n_timesteps)
    assert [asked_step(schedule, step / n_timesteps) for step in range(n_timesteps)] == list(range(n_timesteps))
