"""The shared training loop: averaged weights, learning rate, epochs."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from conffusion.training.loop import Batch, Optimisation, Problem, Training, train


class Line(nn.Module):
    """One weight, and a counter that is not a float."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0]))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.weight


@dataclass(frozen=True)
class Rows(Batch):
    """Row numbers alone."""

    rows: Tensor


class Descent(Problem[Rows]):
    """Minus the output of a network, whose gradient is constant for a line; remembers the rows that it was given."""

    smallest_part = 1

    def __init__(self, network: nn.Module, n_images: int = 1) -> None:
        self.network, self.n_images = network, n_images
        self.rows: list[Tensor] = []

    def draw(self, rows: Tensor, generator: torch.Generator) -> Rows:
        self.rows.append(rows)
        return Rows(rows)

    def loss(self, batch: Rows) -> Tensor:
        return -self.network(torch.ones(1, 2)).sum()


def line_training(**changes: float) -> tuple[Line, Training[Rows], list[float]]:
    """A line after all its steps, and its weight before the first and after every step: Adam moves by the rate."""
    network, settings = Line(), replace(Optimisation(n_steps=40, batch_size=1, learning_rate=0.1, ema=0), **changes)
    training = Training(Descent(network), settings, seed=0)
    weights = [0.0, *(float(network.weight.detach()[0]) for _ in training.run("training", 1))]
    return network, training, weights


@pytest.mark.parametrize("ema", [0.0, 0.5, 0.9, 0.999])
def test_average_equals_a_computation_by_hand(ema: float) -> None:
    network, training, weights = line_training(ema=ema)
    average = weights[0]
    for step, weight in enumerate(weights[1:], start=1):
        decay = min(ema, step / (step + 9))
        average = decay * average + (1 - decay) * weight
    with training.averaged():
        assert float(network.weight.detach()[0]) == pytest.approx(average, rel=1e-4)
        assert int(network.count) == 40  # whole numbers are copied, not averaged
        assert not network.training
    assert float(network.weight.detach()[0]) == weights[-1]
    assert network.training
    training.keep_average()
    assert float(network.weight.detach()[0]) == pytest.approx(average, rel=1e-4)
    assert not network.training


def test_training_weights_come_back_after_an_error_too() -> None:
    network, training, (*_, last) = line_training(n_steps=10, ema=0.9)
    with pytest.raises(RuntimeError, match="validation failed"), training.averaged():
        assert float(network.weight.detach()[0]) != last
        raise RuntimeError("validation failed")
    assert float(network.weight.detach()[0]) == last
    assert network.training


def test_learning_rate_warms_up_and_decays_along_a_cosine() -> None:
    n_steps, peak = 100, 0.01
    _, _, weights = line_training(n_steps=n_steps, learning_rate=peak)
    rates = [after - before for before, after in zip(weights, weights[1:], strict=False)]
    assert rates[:5] == pytest.approx([peak * k / 5 for k in range(1, 6)], rel=1e-3)  # 5 % of the steps
    assert max(rates) == pytest.approx(peak, rel=1e-3)
    middle = 5 + 95 // 2
    assert rates[middle] == pytest.approx(peak * (0.05 + 0.95 * 0.5), rel=0.03)
    assert all(later < earlier + 1e-9 for earlier, later in zip(rates[5:], rates[6:], strict=False))
    assert rates[-1] == pytest.approx(0.05 * peak, rel=0.05)


def test_learning_rate_may_decay_to_nothing() -> None:
    _, _, weights = line_training(n_steps=100, learning_rate=0.01, final_share=0.0)
    rates = [after - before for before, after in zip(weights, weights[1:], strict=False)]
    assert max(rates) == pytest.approx(0.01, rel=1e-3)
    assert 0 < rates[-1] < 1e-3 * 0.01


def test_frozen_parameters_stay() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    for parameter in network[0].parameters():
        parameter.requires_grad_(False)
    before = [parameter.clone() for parameter in network.parameters()]
    train(Descent(network), Optimisation(n_steps=3, batch_size=1, learning_rate=0.1, ema=0.9))
    changed = [not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]
    assert changed == [False, False, True, True]


def rows_of_batches(n_images: int, settings: Optimisation, seed: int = 0) -> list[Tensor]:
    problem = Descent(Line(), n_images)
    train(problem, settings, seed)
    return problem.rows


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_batches_run_through_shuffled_epochs(n_images: int, batch_size: int, n_steps: int, seed: int) -> None:
    settings = Optimisation(n_steps, batch_size, learning_rate=1.0, ema=0)
    batches = rows_of_batches(n_images, settings, seed)
    assert [len(batch) for batch in batches] == [batch_size] * n_steps
    order = torch.cat(batches).tolist()
    for start in range(0, len(order) - n_images + 1, n_images):
        assert sorted(order[start : start + n_images]) == list(range(n_images))
    assert torch.cat(rows_of_batches(n_images, settings, seed)).tolist() == order


def test_epochs_are_shuffled_anew_or_not_at_all() -> None:
    settings = Optimisation(2, 50, learning_rate=1.0, ema=0)
    first, second = rows_of_batches(50, settings)
    assert first.tolist() != second.tolist()
    assert first.tolist() != list(range(50))
    for batch in rows_of_batches(50, replace(settings, shuffled=False)):
        assert batch.tolist() == list(range(50))


def test_constant_learning_rate() -> None:
    _, _, weights = line_training(n_steps=20, learning_rate=0.01, constant_rate=True)
    assert weights == pytest.approx([0.01 * k for k in range(21)], rel=1e-3)


def test_step_that_does_not_fit_is_begun_anew_on_cleared_gradients() -> None:
    """The second part of the first try fails: its gradient must not count. 8 images, at most 3 at a time."""
    network, sizes, gradients = Line(), list[int](), list[float]()

    class Large(Descent):
        def loss(self, batch: Rows) -> Tensor:
            sizes.append(len(batch))
            if len(sizes) in (1, 3):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().loss(batch)

        def end_step(self) -> None:
            gradients.append(float(network.weight.grad[0]))  # type: ignore[index]

    train(Large(network, 8), Optimisation(n_steps=2, batch_size=8, learning_rate=0.1, ema=0))
    assert sizes == [8, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert gradients == [-1.0, -1.0]


def test_batch_that_may_not_be_divided_is_reported() -> None:
    class Whole(Descent):
        smallest_part = None  # type: ignore[assignment]

        def loss(self, batch: Rows) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryError, match=r"not even 4 image\(s\)"):
        train(Whole(Line(), 8), Optimisation(n_steps=1, batch_size=4, learning_rate=0.1, ema=0))


def test_resumed_run_ends_the_same() -> None:
    """Order, noise, records, average, moments and limits of a run that goes on from its state after 20 steps."""

    class Noisy(Descent):
        def draw(self, rows: Tensor, generator: torch.Generator) -> Rows:
            return Rows(rows + torch.rand(len(rows), generator=generator))

        def loss(self, batch: Rows) -> Tensor:
            return (self.network(batch.rows) * batch.rows).sin().mean() * torch.rand(())

    settings = Optimisation(n_steps=30, batch_size=4, learning_rate=0.1, ema=0.9, micro_batch=3)
    ends = []
    state: dict[str, Any] = {}
    for resumed in (False, True):
        torch.manual_seed(1)
        network = Line()
        training = Training(Noisy(network, 10), settings, 3, noise_seed=4)
        if resumed:
            training.restore(state)
        for step in training.run("training", 10):
            if step == 20:
                state = copy.deepcopy(training.state())
        with training.averaged():
            average = float(network.weight.detach()[0])
        ends.append((training.losses, float(network.weight.detach()[0]), average))
    assert ends[0] == ends[1]
    assert [record["step"] for record in ends[0][0]] == [10, 20, 30]
