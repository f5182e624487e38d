"""Objectives equal numbers computed by hand, and are least where they should be."""

import math

import pytest
import torch
from torch import Tensor

from conffusion.losses import sharpness_loss
from conffusion.methods.predictor import Bounds
from conffusion.training.objectives import (
    OBJECTIVES,
    Sharpening,
    pinball,
    pinball_and_squared_error,
    squared_error,
)

LOWER_TARGET = torch.tensor([0.0, 0.0, 0.0])
UPPER_TARGET = torch.tensor([0.0, 0.0, 1.0])
BOUNDS = Bounds(torch.tensor([0.5, 0.0, 0.0]), torch.tensor([-0.4, 0.2, 0.0]), torch.tensor([0.4, -0.2, 1.0]))


def test_mapping_names_them() -> None:
    assert dict(OBJECTIVES) == {
        "pinball": pinball,
        "pinball_and_squared_error": pinball_and_squared_error,
        "squared_error": squared_error,
    }


def test_pinball_weighs_misses_on_the_far_side_most() -> None:
    lower = (0.05 * 0.4 + 0.95 * 0.2 + 0) / 3
    upper = (0.05 * 0.4 + 0.95 * 0.2 + 0) / 3
    assert float(pinball(BOUNDS, LOWER_TARGET, UPPER_TARGET, 0.05)) == pytest.approx(lower + upper)


def test_point_estimate_adds_its_squared_error_to_the_truth() -> None:
    extra = pinball_and_squared_error(BOUNDS, LOWER_TARGET, UPPER_TARGET, 0.05) - pinball(
        BOUNDS, LOWER_TARGET, UPPER_TARGET, 0.05
    )
    assert float(extra) == pytest.approx(0.25 / 3)


def test_squared_error_fits_each_bound_to_its_own_target() -> None:
    expected = (0.16 + 0.04) / 3 + (0.16 + 0.04) / 3
    assert float(squared_error(BOUNDS, LOWER_TARGET, UPPER_TARGET, 0.05)) == pytest.approx(expected)
    met = Bounds(BOUNDS.point, LOWER_TARGET, UPPER_TARGET)
    assert float(squared_error(met, LOWER_TARGET, UPPER_TARGET, 0.05)) == 0


def loss_at(level: float, truth: Tensor, quantile: float) -> float:
    constant = torch.full_like(truth, level)
    return float(pinball(Bounds(constant, constant, torch.full_like(truth, 10)), truth, truth, quantile))


@pytest.mark.parametrize("quantile", [0.05, 0.2])
def test_best_constant_lower_bound_is_the_quantile(quantile: float) -> None:
    truth = torch.linspace(0, 1, 1001)
    best = min(torch.linspace(0, 1, 201).tolist(), key=lambda level: loss_at(level, truth, quantile))
    assert best == pytest.approx(quantile, abs=0.006)


# ---- width at a risk


def interval(lower: Tensor | float, upper: Tensor | float, truth: Tensor) -> Bounds:
    """The same bounds, in [-1, 1], everywhere."""
    low, high = (torch.as_tensor(end).expand(truth.shape) for end in (lower, upper))
    return Bounds(low, low, high)


def missing(share: float) -> Tensor:
    """1000 values of which a share lies outside [-0.5, 0.5]."""
    return torch.where(torch.arange(1000) < 1000 * share, 0.9, 0.1)


def test_sharpening_is_the_loss_on_the_unit_range_at_the_first_price() -> None:
    truth, sharpening = missing(0.2), Sharpening(0.1)
    loss = sharpening(interval(-0.5, 0.5, truth), truth, truth, 0.05)
    assert sharpening.price == pytest.approx(0.3 * 0.5 / 0.1)  # half the range is covered
    quarter = torch.tensor(0.25).expand(1000)
    expected = sharpness_loss(quarter, 3 * quarter, (truth + 1) / 2, price=sharpening.price)
    assert float(loss) == pytest.approx(float(expected))


@pytest.mark.parametrize(("risk", "factor"), [(0.0, -1.0), (0.02, -0.8), (0.1, 0.0), (0.15, 0.5), (1.0, 1.0)])
def test_price_follows_the_risk(risk: float, factor: float) -> None:
    truth, sharpening = missing(risk), Sharpening(0.1)
    for _ in range(2):
        sharpening(interval(-0.5, 0.5, truth), truth, truth, 0.05)
        before = sharpening.price
        sharpening.update_price()
        assert sharpening.price == pytest.approx(before * math.exp(0.09 * factor), rel=1e-5)


def test_price_moves_once_a_step_by_all_that_was_shown() -> None:
    sharpening = Sharpening(0.4)
    for truth in (missing(0.2), missing(0.9)[:500]):  # 200 of 1000, 500 of 500
        sharpening(interval(-0.5, 0.5, truth), truth, truth, 0.05)
    before = sharpening.price
    sharpening.update_price()
    assert sharpening.price == pytest.approx(before * math.exp(0.09 * (700 / 1500 - 0.4) / 0.4), rel=1e-5)


@pytest.mark.parametrize(("risk", "factor"), [(0.0, 1 / 20), (1.0, 20.0)])
def test_price_does_not_run_away(risk: float, factor: float) -> None:
    truth, sharpening = missing(risk), Sharpening(0.1)
    prices = []
    for _ in range(60):
        sharpening(interval(-0.5, 0.5, truth), truth, truth, 0.05)
        prices.append(sharpening.price)
        sharpening.update_price()
    assert prices[-1] == pytest.approx(factor * prices[0])


@pytest.mark.parametrize("level", [0.1, 0.3])
@pytest.mark.parametrize("start", [(-0.99, 0.99), (-0.99, -0.4)])
def test_risk_goes_to_the_level_and_the_bounds_to_the_narrowest(level: float, start: tuple[float, float]) -> None:
    """Of an exponential truth the narrowest interval starts at its least value; that between quantiles does not."""
    mean, generator = 0.2, torch.Generator().manual_seed(3)
    ends = torch.tensor(start, requires_grad=True)
    optimiser, sharpening = torch.optim.Adam([ends], lr=0.01), Sharpening(level)
    late = []
    for step in range(1200):
        truth = torch.empty(2000).exponential_(1 / mean, generator=generator) - 1
        optimiser.zero_grad()
        sharpening(interval(ends[0], ends[1], truth), truth, truth, 0.0).backward()
        optimiser.step()
        sharpening.update_price()
        low, high = (float(end) + 1 for end in ends.detach())
        if step >= 600:
            late.append((1 - math.exp(-max(low, 0) / mean) + math.exp(-high / mean), high - max(low, 0)))
    risk, width = torch.tensor(late).mean(dim=0).tolist()
    assert risk == pytest.approx(level, rel=0.1)
    narrowest = -mean * math.log(level)
    between_quantiles = mean * math.log((1 - level / 2) / (level / 2))
    assert width < (narrowest + between_quantiles) / 2
