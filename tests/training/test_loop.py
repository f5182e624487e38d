"""The shared training loop: averaged weights, learning rate, epochs."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from conffusion.training.loop import Again, BatchIndices, Optimisation, Trainer


def apply(trainer: Trainer, loss: Callable[[], Tensor]) -> None:
    """One step down the gradient of a loss."""

    def backward() -> Tensor:
        value = loss()
        value.backward()
        return value.detach()

    trainer.apply(backward)


class Line(nn.Module):
    """One weight, and a counter that is not a float."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0]))
        self.register_buffer("count", torch.tensor(0))


def steps_of_adam(network: Line, trainer: Trainer, n_steps: int) -> list[float]:
    """The weight before the first and after every step; under a constant gradient Adam moves by the learning rate."""
    weights = [0.0]
    for _ in range(n_steps):
        network.count += 1
        apply(trainer, lambda: -network.weight.sum())
        weights.append(float(network.weight.detach()[0]))
    return weights


@pytest.mark.parametrize("ema", [0.0, 0.5, 0.9, 0.999])
def test_average_equals_a_computation_by_hand(ema: float) -> None:
    network = Line()
    trainer = Trainer(network, Optimisation(n_steps=40, batch_size=1, learning_rate=0.1, ema=ema))
    weights = steps_of_adam(network, trainer, 40)
    average = weights[0]
    for step, weight in enumerate(weights[1:], start=1):
        decay = min(ema, step / (step + 9))
        average = decay * average + (1 - decay) * weight
    with trainer.averaged():
        assert float(network.weight.detach()[0]) == pytest.approx(average, rel=1e-4)
        assert int(network.count) == 40  # whole numbers are copied, not averaged
        assert not network.training
    assert float(network.weight.detach()[0]) == weights[-1]
    assert network.training


def test_training_weights_come_back_after_an_error_too() -> None:
    network = Line()
    trainer = Trainer(network, Optimisation(n_steps=10, batch_size=1, learning_rate=0.1, ema=0.9))
    last = steps_of_adam(network, trainer, 10)[-1]
    with pytest.raises(RuntimeError, match="validation failed"), trainer.averaged():
        assert float(network.weight.detach()[0]) != last
        raise RuntimeError("validation failed")
    assert float(network.weight.detach()[0]) == last
    assert network.training


def test_learning_rate_warms_up_and_decays_along_a_cosine() -> None:
    n_steps, peak = 100, 0.01
    network = Line()
    trainer = Trainer(network, Optimisation(n_steps=n_steps, batch_size=1, learning_rate=peak, ema=0))
    weights = steps_of_adam(network, trainer, n_steps)
    rates = [after - before for before, after in zip(weights, weights[1:], strict=False)]
    assert rates[:5] == pytest.approx([peak * k / 5 for k in range(1, 6)], rel=1e-3)  # 5 % of the steps
    assert max(rates) == pytest.approx(peak, rel=1e-3)
    middle = 5 + 95 // 2
    assert rates[middle] == pytest.approx(peak * (0.05 + 0.95 * 0.5), rel=0.03)
    assert all(later < earlier + 1e-9 for earlier, later in zip(rates[5:], rates[6:], strict=False))
    assert rates[-1] == pytest.approx(0.05 * peak, rel=0.05)


def test_learning_rate_may_decay_to_nothing() -> None:
    network = Line()
    settings = Optimisation(n_steps=100, batch_size=1, learning_rate=0.01, ema=0, final_share=0.0)
    weights = steps_of_adam(network, Trainer(network, settings), 100)
    rates = [after - before for before, after in zip(weights, weights[1:], strict=False)]
    assert max(rates) == pytest.approx(0.01, rel=1e-3)
    assert 0 < rates[-1] < 1e-3 * 0.01


def test_frozen_parameters_stay() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    for parameter in network[0].parameters():
        parameter.requires_grad_(False)
    before = [parameter.clone() for parameter in network.parameters()]
    trainer = Trainer(network, Optimisation(n_steps=3, batch_size=1, learning_rate=0.1, ema=0.9))
    for _ in range(3):
        apply(trainer, lambda: network(torch.ones(1, 2)).sum())
    changed = [not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]
    assert changed == [False, False, True, True]


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 30), st.integers(0, 5))
def test_batches_run_through_shuffled_epochs(n_images: int, batch_size: int, n_steps: int, seed: int) -> None:
    settings = Optimisation(n_steps, batch_size, learning_rate=1.0, ema=0)
    batches = list(BatchIndices(n_images, settings, torch.Generator().manual_seed(seed)))
    assert [len(batch) for batch in batches] == [batch_size] * n_steps
    order = torch.cat(batches).tolist()
    for start in range(0, len(order) - n_images + 1, n_images):
        assert sorted(order[start : start + n_images]) == list(range(n_images))
    again = BatchIndices(n_images, settings, torch.Generator().manual_seed(seed))
    assert torch.cat(list(again)).tolist() == order


def test_epochs_are_shuffled_anew_or_not_at_all() -> None:
    settings = Optimisation(2, 50, learning_rate=1.0, ema=0)
    first, second = BatchIndices(50, settings, torch.Generator().manual_seed(0))
    assert first.tolist() != second.tolist()
    assert first.tolist() != list(range(50))
    for batch in BatchIndices(50, replace(settings, shuffled=False), torch.Generator().manual_seed(0)):
        assert batch.tolist() == list(range(50))


def test_constant_learning_rate() -> None:
    network = Line()
    settings = Optimisation(n_steps=20, batch_size=1, learning_rate=0.01, ema=0, constant_rate=True)
    weights = steps_of_adam(network, Trainer(network, settings), 20)
    assert weights == pytest.approx([0.01 * k for k in range(21)], rel=1e-3)


def test_step_is_repeated_on_cleared_gradients_when_asked_for() -> None:
    network = Line()
    trainer = Trainer(network, Optimisation(n_steps=1, batch_size=1, learning_rate=0.1, ema=0, constant_rate=True))
    calls = []

    def backward() -> Tensor:
        (-3 * network.weight.sum()).backward()
        calls.append(float(network.weight.grad[0]))  # type: ignore[index]
        if len(calls) < 3:
            raise Again
        return torch.zeros(())

    trainer.apply(backward)
    assert calls == [-3.0, -3.0, -3.0]
    assert trainer.step == 1
