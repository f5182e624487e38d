"""Objectives equal numbers computed by hand, and are least where they should be."""

import pytest
import torch
from torch import Tensor

from conffusion.methods.predictor import Bounds
from conffusion.training.objectives import OBJECTIVES, pinball, pinball_and_squared_error, squared_error

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
