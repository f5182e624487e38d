import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from conffusion.calibration import clt_ucb, empirical_bernstein_ucb, hoeffding_ucb, search
from conffusion.calibration.variance import largest_variance, sample_variance
from conffusion.errors import ConfigError, DataError, ShapeError
from tests.calibration_in_order import calibrate

BOUNDS = {"empirical_bernstein": empirical_bernstein_ucb, "clt": clt_ucb}
unit = st.floats(0.0, 1.0)
level = st.floats(0.01, 0.99)
several = st.lists(unit, min_size=2, max_size=60)


@pytest.mark.parametrize(("n", "delta"), [(2, 0.3), (100, 0.1), (5000, 0.001)])
def test_empirical_bernstein_is_the_published_formula(n, delta):
    """The variance as in the paper: the mean over pairs i < j of (L_i - L_j)^2 / 2."""
    losses = np.random.default_rng(n).beta(0.5, 4.5, n)
    pairs = (losses[:, None] - losses) ** 2
    variance, log_term = pairs.sum() / (2 * n * (n - 1)), math.log(2 / delta)
    expected = losses.mean() + math.sqrt(2 * variance * log_term / n) + 7 * log_term / (3 * (n - 1))
    assert empirical_bernstein_ucb(losses, delta) == pytest.approx(min(1.0, expected), rel=1e-12)


@pytest.mark.parametrize(("n", "delta"), [(2, 0.3), (100, 0.1), (5000, 0.001)])
def test_clt_is_the_normal_approximation(n, delta):
    losses = np.random.default_rng(n).beta(0.5, 4.5, n)
    error = stats.sem(losses)
    assert clt_ucb(losses, delta) == pytest.approx(stats.norm.ppf(1 - delta, losses.mean(), error), rel=1e-12)


def test_clt_is_never_below_the_mean():
    losses = np.random.default_rng(0).random(30)
    assert clt_ucb(losses, 0.5) == clt_ucb(losses, 0.9) == losses.mean()


@pytest.mark.parametrize("name", BOUNDS)
def test_one_loss_tells_nothing(name):
    assert BOUNDS[name]([0.0], 0.1) == 1.0


@pytest.mark.parametrize("name", BOUNDS)
@given(losses=several, deltas=st.tuples(level, level))
def test_bounds_fall_with_delta_and_lie_between_mean_and_one(name, losses, deltas):
    strict, loose = (BOUNDS[name](losses, delta) for delta in sorted(deltas))
    assert loose <= strict + 1e-12
    assert np.mean(losses) - 1e-12 <= loose
    assert strict <= 1.0


@pytest.mark.parametrize("name", BOUNDS)
@given(losses=several, delta=level, share=unit)
def test_bounds_rise_with_the_mean_and_with_the_spread(name, losses, delta, share):
    values = np.array(losses)
    shifted = values + share * (1 - values.max())
    gathered = values.mean() + share * (values - values.mean())
    assert BOUNDS[name](values, delta) <= BOUNDS[name](shifted, delta) + 1e-9
    assert BOUNDS[name](gathered.clip(0, 1), delta) <= BOUNDS[name](values, delta) + 1e-9


@pytest.mark.parametrize("name", BOUNDS)
@given(losses=several, delta=level, seed=st.integers(0, 2**32 - 1))
def test_order_of_losses_does_not_matter(name, losses, delta, seed):
    shuffled = np.random.default_rng(seed).permutation(losses)
    assert BOUNDS[name](shuffled, delta) == pytest.approx(BOUNDS[name](losses, delta), abs=1e-12)


@pytest.mark.parametrize("name", BOUNDS)
@given(losses=several, delta=level)
def test_bounds_tend_to_the_mean(name, losses, delta):
    for repeats in (10, 1000, 30_000):
        repeated = np.tile(losses, repeats)
        n, log_term = len(repeated), math.log(2 / delta)
        gap = BOUNDS[name](repeated, delta) - repeated.mean()
        assert gap <= math.sqrt(log_term / n) + 7 * log_term / (3 * (n - 1)) + 1e-9


def test_empirical_bernstein_is_much_tighter_than_hoeffding_for_even_losses():
    losses = np.random.default_rng(3).uniform(0.05, 0.15, 1000)
    assert empirical_bernstein_ucb(losses, 0.1) - losses.mean() < 0.5 * (hoeffding_ucb(0.1, 1000, 0.1) - 0.1)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 12), width=unit)
def test_largest_variance_covers_everything_in_between(seed, n, width):
    """A variance is convex, so over a box it is largest at a corner: all 2^n corners are tried."""
    generator = np.random.default_rng(seed)
    largest = generator.random(n)
    smallest = largest * (1 - width * generator.random(n))
    corners = np.where((np.arange(2**n) >> np.arange(n)[:, None]) & 1, largest[:, None], smallest[:, None])
    bound = largest_variance(largest, smallest)
    assert np.var(corners, axis=0, ddof=1).max() <= bound + 1e-12
    assert bound <= np.var(largest, ddof=1) + 5 * (largest - smallest).max()
    assert largest_variance(largest, largest) == sample_variance(largest) == pytest.approx(np.var(largest, ddof=1))


@pytest.mark.parametrize("ucb", BOUNDS)
@pytest.mark.parametrize("seed", range(10))
def test_search_follows_a_bound_that_rises_before_it_falls(ucb, seed, monkeypatch):
    """Images are covered one after the other, which spreads the losses; only near the highest bound alpha is missed."""
    monkeypatch.setattr(search, "_MAX_EDGES", 4)
    generator, target = np.random.default_rng(seed), np.full((400, 20), 0.125)
    scales = np.concatenate([[0.0], np.sort(generator.uniform(0.1, 0.7, 60)), [0.8]])
    critical = np.zeros_like(target)
    critical[:, :9] = 0.8
    critical[generator.permutation(400)[:60], :9] = scales[1:-1, None]
    bounds = np.array([BOUNDS[ucb]((critical > scale).mean(axis=1), 0.01) for scale in scales])
    alpha = np.sort(bounds)[-2:].mean()
    assert alpha > bounds[0]
    found = calibrate(
        target + critical, np.ones_like(target), target, alpha=alpha, delta=0.01, scaling="additive", ucb=ucb
    )
    assert found.lambda_hat == pytest.approx(scales[bounds.argmax() + 1], abs=1e-12)


@pytest.mark.parametrize("name", BOUNDS)
def test_bad_arguments_are_refused(name):
    for losses, error in [([], ShapeError), ([[0.1]], ShapeError), ([0.1, math.nan], DataError), ([1.2], DataError)]:
        with pytest.raises(error):
            BOUNDS[name](losses, 0.1)
    for delta in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ConfigError, match="delta = "):
            BOUNDS[name]([0.1, 0.2], delta)
