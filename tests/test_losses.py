import numpy as np
import pytest
import torch

from conffusion.errors import ConfigError, ShapeError
from conffusion.losses import pinball_loss, sharpness_loss
from tests import conformance


@pytest.fixture(scope="module")
def fixture():
    description, arrays = conformance.load("stats/pinball")
    output, target = (torch.from_numpy(conformance.make(description["inputs"][key])) for key in ("output", "target"))
    output[0] = torch.where(target[0] > 0, target[0], output[0])
    return description, arrays, output, target


@pytest.mark.parametrize("quantile", [0.05, 0.1, 0.95])
def test_value_and_gradient_reproduce_the_official_loss(fixture, quantile):
    description, arrays, output, target = fixture
    prediction = output.clone().requires_grad_()
    loss = pinball_loss(prediction, target, quantile)
    loss.backward()
    assert loss.item() == pytest.approx(description["values"][f"mean_q{quantile}"], rel=1e-6)
    assert np.allclose(prediction.grad.numpy(), arrays[f"grad_of_mean_q{quantile}"], rtol=1e-6, atol=1e-8)
    single = torch.stack(
        [pinball_loss(p, t, quantile) for p, t in zip(output[:, 0, 0, 0], target[:, 0, 0, 0], strict=True)]
    )
    assert np.allclose(single.numpy(), arrays[f"none_q{quantile}"][:, 0, 0, 0], rtol=1e-5, atol=1e-7)


def test_minimiser_is_the_quantile():
    target = torch.from_numpy(np.random.default_rng(0).normal(size=4001))
    candidates = torch.linspace(-3, 3, 601, dtype=torch.float64)
    for quantile in (0.05, 0.5, 0.9):
        losses = torch.stack([pinball_loss(value.expand(4001), target, quantile) for value in candidates])
        assert candidates[losses.argmin()].item() == pytest.approx(torch.quantile(target, quantile).item(), abs=0.02)


def test_bad_arguments():
    with pytest.raises(ConfigError, match="quantile = 1.0"):
        pinball_loss(torch.zeros(3), torch.zeros(3), 1.0)
    with pytest.raises(ShapeError, match="target"):
        pinball_loss(torch.zeros(3), torch.zeros(3, 1), 0.5)


# ---- width and priced misses

LOWER, UPPER, TARGET = (
    [0.2, 0.5, 0.9, 0.3],
    [0.6, 0.7, 0.4, 0.3],
    [0.65, 0.6, 0.3, 0.31],
)  # inside, outside, crossed, none


def sharpness_by_hand(lower, upper, target, widths, *, price, softness):
    """NumPy; the widths that the smoothing looks at stay, whatever the bounds."""
    low, high = np.minimum(lower, upper), np.maximum(lower, upper)
    scale = softness * widths / 2 + 1 / 255
    misses = 1 / (1 + np.exp((high - target) / scale)) + 1 / (1 + np.exp((target - low) / scale))
    return np.mean(high - low) + price * np.mean(misses)


@pytest.mark.parametrize(("price", "softness"), [(1.5, 0.1), (0.2, 1.0), (3.0, 0.0)])
def test_sharpness_and_its_gradient_equal_a_computation_by_hand(price, softness):
    lower, upper, target = (np.array(values) for values in (LOWER, UPPER, TARGET))
    settings, widths = {"price": price, "softness": softness}, np.abs(upper - lower)
    tensors = [torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in (LOWER, UPPER)]
    loss = sharpness_loss(*tensors, torch.from_numpy(target), **settings)
    loss.backward()
    assert loss.item() == pytest.approx(sharpness_by_hand(lower, upper, target, widths, **settings))
    apart = slice(0, 3)  # bounds that coincide have no derivative
    for end in (0, 1):
        for k in range(3):
            step = np.zeros((2, 4))
            step[end, k] = 1e-6
            ahead, behind = (
                sharpness_by_hand(lower + sign * step[0], upper + sign * step[1], target, widths, **settings)
                for sign in (1, -1)
            )
            assert tensors[end].grad[apart][k].item() == pytest.approx((ahead - behind) / 2e-6, rel=1e-5, abs=1e-8)


def test_order_of_the_bounds_does_not_matter():
    lower, upper, target = (torch.tensor(values) for values in (LOWER, UPPER, TARGET))
    assert sharpness_loss(lower, upper, target, price=2.0) == sharpness_loss(upper, lower, target, price=2.0)


def test_best_constant_bounds_stand_where_the_density_is_one_over_the_price():
    """At the minimum of 2 u + price P(|y| > u) the density of a normal y with deviation 0.1 is 1 / price at u."""
    deviation, price = 0.1, 2.0
    target = 0.5 + deviation * torch.from_numpy(np.random.default_rng(0).normal(size=20001))
    reaches = torch.linspace(0.02, 0.3, 281, dtype=torch.float64)
    losses = torch.stack([
        sharpness_loss((0.5 - u).expand(20001), (0.5 + u).expand(20001), target, price=price, softness=0.0)
        for u in reaches
    ])  # fmt: skip
    expected = deviation * np.sqrt(-2 * np.log(np.sqrt(2 * np.pi) * deviation / price))
    assert reaches[losses.argmin()].item() == pytest.approx(expected, rel=0.02)


def test_bad_arguments_of_the_sharpness():
    zeros = torch.zeros(3)
    with pytest.raises(ConfigError, match="price = 0"):
        sharpness_loss(zeros, zeros, zeros, price=0)
    with pytest.raises(ConfigError, match="softness = -1"):
        sharpness_loss(zeros, zeros, zeros, price=1.0, softness=-1)
    with pytest.raises(ShapeError, match="target"):
        sharpness_loss(zeros, zeros, torch.zeros(3, 1), price=1.0)
