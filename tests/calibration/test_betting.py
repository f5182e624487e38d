import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conffusion.calibration import hoeffding_bentkus_ucb, wsr_ucb
from conffusion.calibration.betting import bet_range, wsr_bets
from conffusion.errors import ConfigError, DataError, ShapeError
from tests import conformance

unit = st.floats(0.0, 1.0)
level = st.floats(0.01, 0.9)


def test_wsr_reproduces_the_official_code():
    description, _ = conformance.load("stats/wsr_conffusion")
    for row in description["rows"]:
        losses = np.random.default_rng(row["seed"]).uniform(row["lo"], row["hi"], row["n"])
        assert wsr_ucb(losses, row["delta"]) == pytest.approx(row["wsr"], abs=1e-9)


@pytest.mark.parametrize(("n", "delta"), [(1, 0.1), (20, 0.05), (800, 0.2)])
def test_losses_of_one_give_one(n, delta):
    assert wsr_ucb(np.ones(n), delta) == 1.0


@given(losses=st.lists(unit, min_size=1, max_size=60), deltas=st.tuples(level, level))
def test_wsr_lies_in_the_unit_interval_and_falls_with_delta(losses, deltas):
    strict, loose = wsr_ucb(losses, min(deltas)), wsr_ucb(losses, max(deltas))
    assert 0.0 < loose <= 1.0
    assert 0.0 < strict <= 1.0
    # The bets depend on delta too, so only the comparison at fixed bets is a theorem; equal losses show it.
    equal = [losses[0]] * len(losses)
    assert wsr_ucb(equal, max(deltas)) <= wsr_ucb(equal, min(deltas)) + 1e-9


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), delta=level)
def test_bet_range_holds_the_bets_of_everything_in_between(seed, n, delta):
    generator = np.random.default_rng(seed)
    largest = generator.random((n, 1))
    smallest = largest * generator.random((n, 1))
    low, high = bet_range(largest, smallest, delta)
    bets = wsr_bets(smallest + (largest - smallest) * generator.random((n, 40)), delta)
    assert (low - 1e-12 <= bets).all()
    assert (bets <= high + 1e-12).all()
    assert np.allclose(bet_range(largest, largest, delta), wsr_bets(largest, delta), rtol=1e-12)


def test_wsr_is_much_tighter_than_hoeffding_bentkus_for_even_losses():
    losses = np.random.default_rng(3).uniform(0.05, 0.15, 200)
    assert wsr_ucb(losses, 0.1) - losses.mean() < 0.5 * (hoeffding_bentkus_ucb(losses.mean(), 200, 0.1) - losses.mean())


def test_wsr_tends_to_the_mean():
    losses = np.random.default_rng(4).beta(0.5, 4.5, 200_000)
    assert 0.0 < wsr_ucb(losses, 0.1) - losses.mean() < 0.002


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, math.nan])
def test_delta_out_of_range_is_named(delta):
    with pytest.raises(ConfigError, match="delta = "):
        wsr_ucb([0.1], delta)


def test_bad_losses_are_refused():
    for losses, error in [([], ShapeError), ([[0.1]], ShapeError), ([0.1, math.nan], DataError), ([1.2], DataError)]:
        with pytest.raises(error):
            wsr_ucb(losses, 0.1)
