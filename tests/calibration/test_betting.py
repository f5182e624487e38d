import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from conffusion.calibration import hoeffding_bentkus_ucb, star_ucb, wsr_ucb
from conffusion.calibration.betting import EXPECTED_DEVIATION, bet_range, star_passes, wsr_bets
from conffusion.calibration.risk_bounds import BOUNDS, Level
from conffusion.errors import ConfigError, DataError, ShapeError
from tests import conformance

unit = st.floats(0.0, 1.0)
level = st.floats(0.01, 0.9)
any_delta = st.one_of(level, st.sampled_from([1e-12, 1e-4, 1 - 1e-9]))
deviations = st.sampled_from([0.001, 0.01, EXPECTED_DEVIATION, 0.3, 5.0])


def losses_near(alpha):
    """Losses among which bounds near alpha are likely."""
    return st.one_of(unit, st.sampled_from([0.0, 1.0, alpha, alpha / 2, 0.8 * alpha]))


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


@pytest.mark.parametrize("bound", [wsr_ucb, star_ucb])
@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, math.nan])
def test_delta_out_of_range_is_named(bound, delta):
    with pytest.raises(ConfigError, match="delta = "):
        bound([0.1], delta)


@pytest.mark.parametrize("bound", [wsr_ucb, star_ucb])
def test_bad_losses_are_refused(bound):
    for losses, error in [([], ShapeError), ([[0.1]], ShapeError), ([0.1, math.nan], DataError), ([1.2], DataError)]:
        with pytest.raises(error):
            bound(losses, 0.1)


@pytest.mark.parametrize("deviation", [0.0, -0.1, math.inf, math.nan])
def test_deviation_out_of_range_is_named(deviation):
    with pytest.raises(ConfigError, match="deviation = "):
        star_ucb([0.1], 0.1, deviation=deviation)


@given(data=st.data(), n=st.integers(1, 60), alpha=level, delta=any_delta, deviation=deviations)
def test_star_never_passes_again_when_losses_rise(data, n, alpha, delta, deviation):
    losses = np.array(data.draw(st.lists(losses_near(alpha), min_size=n, max_size=n)))
    share = np.array(data.draw(st.lists(unit, min_size=n, max_size=n)))
    raised = losses + (1 - losses) * share * np.array([[1.0], [0.1], [0.001]])
    columns = np.stack([losses, *raised], axis=1)
    passes = star_passes(columns, alpha, delta, deviation)
    assert (passes[:1] >= passes).all()
    assert star_ucb(raised[2], delta, deviation=deviation) >= star_ucb(losses, delta, deviation=deviation) - 1e-12


@given(data=st.data(), n=st.integers(1, 60), alpha=level, delta=any_delta, deviation=deviations)
def test_star_falls_with_delta_and_passes_up_to_the_largest_level(data, n, alpha, delta, deviation):
    losses = np.array(data.draw(st.lists(losses_near(alpha), min_size=n, max_size=n)))
    levels = np.linspace(0.001, 0.999, 400)
    passes = star_passes(losses[:, None], levels, delta, deviation)
    assert (np.diff(passes.astype(int)) >= 0).all()
    stricter = star_passes(losses[:, None], levels, delta / 2, deviation)
    assert (stricter <= passes).all()


@given(data=st.data(), n=st.integers(1, 60), alpha=level, delta=any_delta, deviation=deviations)
def test_star_passes_just_above_its_bound_and_fails_just_below(data, n, alpha, delta, deviation):
    losses = np.array(data.draw(st.lists(losses_near(alpha), min_size=n, max_size=n)))
    bound = star_ucb(losses, delta, deviation=deviation)
    assert 0.0 < bound <= 1.0
    assume(bound > 1e-6)  # at delta near 1 the bound is of the size of the tolerance below
    assert bound == 1.0 or star_passes(losses[:, None], bound, delta, deviation)[0]
    assert not star_passes(losses[:, None], max(0.0, bound - 2e-13), delta, deviation)[0]
    asked = Level(bound * (1 - 1e-9), delta, n)
    if deviation == EXPECTED_DEVIATION:
        assert not BOUNDS["star"].passes(losses[:, None], asked)[0]


def test_star_of_columns_is_that_of_each_column():
    generator = np.random.default_rng(2)
    losses, levels = generator.beta(2, 18, (50, 30)), generator.uniform(0.05, 0.3, 30)
    alone = [star_passes(losses[:, [k]], levels[k], 0.1, 0.05)[0] for k in range(30)]
    assert np.array_equal(star_passes(losses, levels, 0.1, 0.05), alone)
    assert 0 < sum(alone) < 30


def test_star_after_its_formula():
    """The recursion of the docstring in plain Python, at a level where some stakes are capped."""
    losses = np.random.default_rng(5).choice([0.0, 0.05, 0.5], 40)
    for at in np.linspace(0.02, 0.6, 30):
        capital, delta, deviation = 0.2, 0.2, 0.02
        for t, loss in enumerate(losses, start=1):
            if capital >= 1:
                break
            base = min(capital, math.exp(-0.5))
            stake = base * math.sqrt(2 * math.log(1 / base) / (40 - t + 1)) / deviation if base > 0 else 0.0
            capital -= min(stake, capital / (1 - at)) * (loss - at)
        assert star_passes(losses[:, None], at, delta, deviation)[0] == (capital >= 1)


@pytest.mark.parametrize("deviation", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("delta", [1e-6, 0.1, 1 - 1e-6])
def test_star_of_equal_losses(delta, deviation):
    for n in (1, 2, 50):
        assert star_ucb(np.ones(n), delta, deviation=deviation) == 1.0
        assert 0.0 < star_ucb(np.zeros(n), delta, deviation=deviation) <= 1.0
        # A loss of 0 multiplies the capital by 1 / (1 - r) at most, which no bound can do better.
        assert star_ucb(np.zeros(n), delta, deviation=deviation) >= 1 - delta ** (1 / n) - 1e-12


def test_star_of_one_loss():
    """The only bet is min(d sqrt(2 log(1 / d)) / deviation, d / (1 - r)) with d = delta; here the second is smaller."""
    for loss in (0.0, 0.3):
        bound = star_ucb([loss], 0.5, deviation=0.05)
        assert 0.5 * (1 - (loss - bound) / (1 - bound)) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("deviation", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("n", [20, 100, 300])
@pytest.mark.parametrize("delta", [0.05, 0.1, 0.5])
def test_star_fails_in_a_share_of_delta_at_most(n, delta, deviation):
    """P(bound < true mean) <= delta, tested at the level of the true mean: the bound is below it where it passes."""
    n_repeats, generator = 4000, np.random.default_rng(11)
    for losses, mean in draws_of_losses(generator, (n, n_repeats)):
        failures = star_passes(losses.astype(float), mean - 1e-9, delta, deviation).mean()
        assert failures <= delta + 3 * math.sqrt(delta * (1 - delta) / n_repeats)


def draws_of_losses(generator, shape):
    """Losses of some shape and their mean: Bernoulli, steady, spiky at two heights, skewed, and pixel counts."""
    for mean in (0.01, 0.1, 0.5):
        yield generator.random(shape) < mean, mean
    yield generator.beta(8.8, 91.2, shape), 0.088
    yield generator.beta(0.3, 2.7, shape), 0.1
    spikes = generator.random(shape) < 0.01
    yield np.where(spikes, 1.0, 0.09), 0.01 + 0.99 * 0.09
    yield np.where(spikes, 0.5, generator.uniform(0.0, 0.1, shape)), 0.005 + 0.99 * 0.05
    yield generator.binomial(64, generator.beta(2.0, 18.0, shape)) / 64, 0.1


def test_star_spends_more_of_alpha_than_wsr_on_steady_losses():
    losses = np.random.default_rng(0).normal(size=200)
    losses = 0.088 + 0.03 * (losses - losses.mean()) / losses.std()
    assert losses.min() > 0
    assert star_ucb(losses, 0.1) < 0.1 < wsr_ucb(losses, 0.1)


def test_star_of_equal_losses_comes_close_to_what_no_bound_can_pass():
    """One image in 87 that is missed altogether stays unseen among 200 with probability delta."""
    hidden = 1 - 0.1 ** (1 / 200)
    limit = (0.1 - hidden) / (1 - hidden)
    assert hidden == pytest.approx(1 / 87, rel=0.01)
    assert round(limit, 4) == 0.0896
    assert star_ucb(np.full(200, 0.0895), 0.1) < 0.1 < star_ucb(np.full(200, limit + 1e-4), 0.1)


def test_star_tends_to_the_mean():
    losses = np.random.default_rng(4).beta(8.8, 91.2, 50_000)
    assert 0.0 < star_ucb(losses, 0.1) - losses.mean() < 0.001


@pytest.mark.parametrize("at", np.linspace(0.05, 0.5, 10))
def test_star_capital_that_is_lost_whole_stays_lost(at):
    """A first loss of 1 with everything at stake leaves exactly 0, which 900 losses of 0 cannot raise."""
    losses = np.zeros(901)
    losses[0] = 1.0
    assert not star_passes(losses[:, None], at, 0.1, 0.01)[0]
    assert star_ucb(losses, 0.1, deviation=0.01) > at
