import numpy as np
import pytest
import torch

from conffusion.errors import ConfigError, ShapeError
from conffusion.losses import pinball_loss
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
