"""Fine-tuning: official optimiser steps, coverage on a problem with known quantiles, repeatability."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from conffusion.core.device import Device
from conffusion.methods.models import PredictorSpec
from conffusion.methods.predictor import BoundPredictor, Bounds
from conffusion.models import build_unet
from conffusion.models.networks import Architecture
from conffusion.models.schedules import noise_schedule
from conffusion.training.finetune import RECORD_EVERY, BoundFitting, TrainingSet, validation_steps
from conffusion.training.loop import Optimisation, Training, train
from conffusion.training.objectives import OBJECTIVES, Objective, Sharpening, pinball
from tests import conformance
from tests.methods.small_specs import SPECS

CPU = Device(torch.device("cpu"), bfloat16=False)
SPREAD = 0.15  # of the truth around the condition, in the problem with known quantiles
OFFICIAL = {"quantile_regression": "pinball", "l2": "squared_error"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield


# ---- the official optimiser steps


def uniform(seed: int, shape: list[int]) -> Tensor:
    return torch.from_numpy(conformance.make({"rule": "uniform", "seed": seed, "shape": shape, "lo": -1, "hi": 1}))


def normal(seed: int, shape: list[int]) -> Tensor:
    return torch.from_numpy(conformance.make({"rule": "normal", "seed": seed, "shape": shape}))


def official_predictor(kind: str, description: dict[str, Any], step: int, *, has_holes: bool) -> BoundPredictor:
    network = build_unet(kind, description["config"], bounds=True)
    conformance.fill_state_dict(network, prefix=description["weights"]["prefix"])
    return BoundPredictor(network, kind, noise_schedule("cosine", 200), step / 200, has_holes)


def targets(truth: Tensor, variant: str) -> tuple[Tensor, Tensor]:
    if variant == "l2":
        return (truth - 0.2).clamp(-1, 1), (truth + 0.2).clamp(-1, 1)
    return truth, truth


def adam_losses(predictor: BoundPredictor, rate: float, losses: list[Callable[[], Tensor]]) -> list[float]:
    """One Adam step on each loss; the gradients of the first are left in `first_gradient`."""
    optimiser = torch.optim.Adam(predictor.parameters(), lr=rate)
    values = []
    for number, loss in enumerate(losses):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        if number == 0:
            for parameter in predictor.parameters():
                parameter.first_gradient = None if parameter.grad is None else parameter.grad.clone()
        optimiser.step()
        values.append(float(value.detach()))
    return values


def check_gradients(arrays: dict[str, Any], suffix: str, predictor: BoundPredictor, names: dict[str, str]) -> None:
    parameters = dict(predictor.network.named_parameters())
    for fixture, name in names.items():
        expected = arrays[f"grad_{fixture}_{suffix}"]
        difference = np.abs(parameters[name].first_gradient.numpy() - expected).max()
        assert difference < 1e-3 * np.abs(expected).max(), name


@pytest.mark.parametrize("step", [0, 60])
@pytest.mark.parametrize("variant", list(OFFICIAL))
def test_super_resolution_steps_equal_the_official_ones(variant: str, step: int) -> None:
    description, arrays = conformance.load("sr3/finetune_steps")
    predictor = official_predictor("sr3", description, step, has_holes=False)
    objective, seed, shape = OBJECTIVES[OFFICIAL[variant]], description["seed"], description["shape"]

    def loss(batch: int) -> Tensor:
        condition, truth = uniform(seed + 10 * batch, shape), uniform(seed + 10 * batch + 1, shape)
        bounds = predictor(condition, torch.ones_like(condition), torch.zeros_like(condition))
        return objective(bounds, *targets(truth, variant), 0.05)

    values = adam_losses(predictor, 1e-4, [lambda k=k: loss(k) for k in range(description["steps"])])
    np.testing.assert_allclose(values, description["values"][f"losses_{variant}_t{step}"], rtol=2e-4)
    names = {"lower_conv": "lower.block.3.weight", "first_conv": "downs.0.weight"}
    check_gradients(arrays, f"{variant}_t{step}", predictor, names)


@pytest.mark.parametrize("variant", list(OFFICIAL))
def test_inpainting_steps_equal_the_official_ones(variant: str) -> None:
    """The official loss averages over all pixels, three quarters of them known: a quarter of ours."""
    description, arrays = conformance.load("palette/finetune_steps")
    predictor = official_predictor("palette", description, description["prediction_time_step"], has_holes=True)
    objective, seed, shape = OBJECTIVES[OFFICIAL[variant]], description["seed"], description["shape"]
    mask = torch.from_numpy(conformance.make({"rule": "center_mask", "shape": shape}))

    def loss(batch: int) -> Tensor:
        truth, fill = uniform(seed + 10 * batch, shape), normal(seed + 10 * batch + 1, shape)
        bounds = predictor(truth * (1 - mask), mask, fill)
        hole = mask > 0
        inside = Bounds(*(bound[hole] for bound in bounds))
        lower, upper = targets(truth, variant)
        return objective(inside, lower[hole], upper[hole], 0.05) / 4

    values = adam_losses(predictor, description["lr"], [lambda k=k: loss(k) for k in range(description["steps"])])
    np.testing.assert_allclose(values, description["values"][f"losses_{variant}"], rtol=2e-4)
    names = {"lower_conv": "lower.2.weight", "first_conv": "input_blocks.0.0.weight"}
    check_gradients(arrays, variant, predictor, names)


# ---- our loop


def training_set(n_images: int = 64, *, noise: Tensor | None = None, n_classes: int = 0) -> TrainingSet:
    """Truth = condition + Gaussian noise, so the right bounds are the condition -/+ 1.645 SPREAD."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n_images, 3, 4, 4, generator=generator) - 0.5
    condition = nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    truth = condition + SPREAD * torch.randn(condition.shape, generator=generator)
    return TrainingSet(condition, torch.ones_like(condition), truth, truth, noise, n_classes)


def fresh(kind: str = "sr3") -> BoundPredictor:
    torch.manual_seed(5)
    return SPECS[kind].build(None)


def run(
    predictor: BoundPredictor,
    data: TrainingSet,
    n_steps: int,
    *,
    seed: int = 1,
    objective: Objective = pinball,
    validate_every: int = 1000,
    on_validation: Callable[[int], None] = lambda step: None,
) -> list[dict[str, float]]:
    settings = Optimisation(n_steps=n_steps, batch_size=16, learning_rate=5e-3, ema=0.9)
    training = Training(BoundFitting(predictor, data, objective, 0.05, CPU), settings, seed)
    stops = validation_steps(n_steps, validate_every)
    for step in training.run("fine-tuning", RECORD_EVERY, stops):
        if step in stops:
            with training.averaged():
                on_validation(step)
    return training.losses


@torch.no_grad()
def share_covered(predictor: BoundPredictor, data: TrainingSet) -> float:
    bounds = predictor.eval()(data.condition, data.mask, torch.zeros_like(data.condition))
    return float(((bounds.lower <= data.lower) & (data.lower <= bounds.upper)).float().mean())


def test_bounds_learn_the_quantiles() -> None:
    predictor, data = fresh(), training_set()
    before = share_covered(predictor, data)
    losses = [record["loss"] for record in run(predictor, data, 160)]
    assert before < 0.5
    assert share_covered(predictor, data) == pytest.approx(0.9, abs=0.03)
    best = 2 * SPREAD * 0.10314  # expected pinball loss of a normal's 5 % quantile: SPREAD times the density there
    assert losses[-1] == pytest.approx(best, rel=0.15)
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        bounds = predictor(data.condition, data.mask, torch.zeros_like(data.condition))
    half_width = float((bounds.upper - bounds.lower).mean() / 2)
    assert half_width == pytest.approx(1.645 * SPREAD, rel=0.1)


def test_sharpening_holds_the_risk_and_moves_the_price_after_every_step() -> None:
    predictor, data, prices = fresh(), training_set(), list[float]()

    class Watched(Sharpening):
        def update_price(self) -> None:
            super().update_price()
            prices.append(self.price)

    run(predictor, data, 60)
    run(predictor, data, 100, objective=Watched(0.2))
    assert len(prices) == 100 and len(set(prices)) > 90
    assert share_covered(predictor, data) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("kind", list(SPECS))
def test_same_seed_same_weights(kind: str) -> None:
    data = training_set(20, n_classes=5 if kind == "adm" else 0)
    objective = OBJECTIVES["pinball_and_squared_error"]
    weights, records = zip(*(outcome(kind, data, seed, objective) for seed in (1, 1, 2)), strict=True)
    assert records[0] == records[1] != records[2]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    assert any(not torch.equal(value, weights[2][name]) for name, value in weights[0].items())


def outcome(kind: str, data: TrainingSet, seed: int, objective: Objective) -> tuple[dict[str, Tensor], Any]:
    predictor = fresh(kind)
    torch.manual_seed(0)
    records = run(predictor, data, 6, seed=seed, objective=objective)
    return predictor.state_dict(), records


def test_validation_sees_averaged_weights_and_leaves_the_run_as_it_was() -> None:
    steps, at_validation = [], []
    predictor, data = fresh(), training_set()

    def validate(step: int) -> None:
        assert not predictor.network.training
        steps.append(step)
        at_validation.append({name: value.clone() for name, value in predictor.network.state_dict().items()})

    records = run(predictor, data, 25, validate_every=8, on_validation=validate)
    assert steps == validation_steps(25, 8) == [8, 16, 24, 25]
    assert predictor.network.training
    last = predictor.network.state_dict()
    assert any(not torch.equal(value, last[name]) for name, value in at_validation[-1].items())
    unwatched = fresh()
    run(unwatched, data, 25, validate_every=8)
    assert all(torch.equal(value, last[name]) for name, value in unwatched.network.state_dict().items())
    assert [record["step"] for record in records] == steps


def test_losses_are_recorded_every_few_steps() -> None:
    records = run(fresh(), training_set(20), RECORD_EVERY + 3)
    assert [record["step"] for record in records] == [RECORD_EVERY, RECORD_EVERY + 3]


def test_only_evaluated_pixels_are_fitted() -> None:
    """Garbage outside the mask changes nothing."""
    data = training_set(20)
    mask = torch.zeros_like(data.mask)
    mask[..., 4:12, 4:12] = 1
    clean = TrainingSet(data.condition, mask, data.lower, data.upper, None, 0)
    garbage = 100 * (1 - mask)
    dirty = TrainingSet(data.condition, mask, data.lower + garbage, data.upper + garbage, None, 0)
    assert run(fresh(), clean, 5) == run(fresh(), dirty, 5)


class Watched(nn.Module):
    """A network of one weight that remembers the images it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.seen: list[Tensor] = []

    def heads(self, x: Tensor, level: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        self.seen.append(x[:, :3])
        return (self.weight * x[:, :3],) * 3


@pytest.mark.parametrize("stored", [True, False])
def test_images_and_stored_noise_are_mirrored_together(stored: bool) -> None:
    """The stored fill is the target itself, so the network must be shown exactly what the loss compares with."""
    fill = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(2)).clamp(-1, 1)
    data = TrainingSet(torch.zeros_like(fill), torch.ones_like(fill), fill, -fill, fill if stored else None, 0)
    network, compared = Watched(), []

    def objective(bounds: Bounds, lower: Tensor, upper: Tensor, quantile: float) -> Tensor:
        assert torch.equal(lower, -upper)
        compared.append(lower)
        return pinball(bounds, lower, upper, quantile)

    predictor = BoundPredictor(network, "palette", noise_schedule("cosine", 20), 0.5, has_holes=True)
    run(predictor, data, 12, objective=objective)
    same = [torch.equal(shown.flatten(), target) for shown, target in zip(network.seen, compared, strict=True)]
    assert all(same) if stored else not any(same)
    straight = [
        any(torch.equal(image, original) for original in fill) for image in (batch[0] for batch in network.seen)
    ]
    assert not stored or 0 < sum(straight) < 12  # some batches are mirrored, some are not


@given(st.integers(1, 5000), st.integers(1, 6000), st.booleans())
def test_validations_come_every_so_many_steps_and_after_the_last(n_steps: int, every: int, first: bool) -> None:
    steps = validation_steps(n_steps, every, first=first)
    assert steps == sorted(set(steps))
    assert steps[-1] == n_steps
    assert (1 in steps) == (first or every == 1 or n_steps == 1)
    assert {step for step in steps if step not in (1, n_steps)} == set(range(every, n_steps, every)) - {1}
    assert validation_steps(0, every) == []


def test_too_little_memory_for_a_batch_changes_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that holds at most 5 images: the gradient of a batch is summed over parts."""
    whole, parts = fresh(), fresh()
    sizes: list[int] = []
    forward = BoundPredictor.forward

    def limited(self: BoundPredictor, condition: Tensor, *others: Any) -> Bounds:
        sizes.append(len(condition))
        if len(condition) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, condition, *others)

    records = run(whole, training_set(), 6)
    monkeypatch.setattr(BoundPredictor, "forward", limited)
    assert run(parts, training_set(), 6)[0]["loss"] == pytest.approx(records[0]["loss"], rel=1e-5)
    assert sizes[:3] == [16, 8, 4] and set(sizes[3:]) == {4}
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(parts.network.state_dict()[name], value, rtol=0, atol=1e-3)


def test_batch_norm_never_sees_a_single_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 images of which 3 fit at a time: parts of 2 and 3, not of 2, 2 and 1."""
    torch.manual_seed(5)
    network = Architecture("resnest_small", {"n_classes": 3}, None)
    predictor, sizes = PredictorSpec(network, 0.0, has_holes=False).build(None), list[int]()
    forward = BoundPredictor.forward

    def limited(self: BoundPredictor, condition: Tensor, *others: Any) -> Bounds:
        sizes.append(len(condition))
        if len(condition) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, condition, *others)

    monkeypatch.setattr(BoundPredictor, "forward", limited)
    settings = Optimisation(n_steps=2, batch_size=5, learning_rate=1e-3, ema=0)
    train(BoundFitting(predictor, training_set(), pinball, 0.05, CPU), settings)
    assert sizes == [5, 2, 3, 2, 3]


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: BoundPredictor, *inputs: Any) -> Bounds:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(BoundPredictor, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(fresh(), training_set(), 2)
