import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from conffusion.calibration import hoeffding_bentkus_ucb, hoeffding_ucb, official_ucb, wsr_ucb
from conffusion.calibration.rules import RULES, Level
from conffusion.errors import ConfigError, DataError, ShapeError
from tests import conformance

MEAN_BOUNDS = {"hoeffding": hoeffding_ucb, "hoeffding_bentkus": hoeffding_bentkus_ucb, "official": official_ucb}
unit = st.floats(0.0, 1.0)
level = st.floats(0.01, 0.9)
count = st.integers(1, 2000)


def on_axes(description, bound):
    axes = description["axes"]
    return np.array([[[bound(r, n, d) for d in axes["delta"]] for n in axes["n"]] for r in axes["muhat"]])


@pytest.mark.parametrize("variant", ["conffusion", "im2im_uq"])
def test_official_bound_reproduces_the_official_code(variant):
    description, arrays = conformance.load(f"stats/hb_{variant}")
    ours = on_axes(description, lambda r, n, d: official_ucb(r, n, d, variant))
    assert np.abs(ours - arrays["hb"]).max() < 1e-9


def test_simple_hoeffding_reproduces_krcps():
    description, arrays = conformance.load("stats/bounds_krcps")
    assert np.abs(on_axes(description, hoeffding_ucb) - arrays["hoeffding"]).max() < 1e-8


def test_official_bound_reproduces_krcps_up_to_its_offset():
    description, arrays = conformance.load("stats/bounds_krcps")
    ours = on_axes(description, lambda r, n, d: official_ucb(r + 1e-6, n, d))
    assert np.abs(ours - arrays["hoeffding_bentkus"]).max() < 1e-8


def test_wsr_reproduces_the_official_code():
    description, _ = conformance.load("stats/wsr_conffusion")
    for row in description["rows"]:
        losses = np.random.default_rng(row["seed"]).uniform(row["lo"], row["hi"], row["n"])
        assert wsr_ucb(losses, row["delta"]) == pytest.approx(row["wsr"], abs=1e-9)
        assert official_ucb(row["mean"], row["n"], row["delta"]) == pytest.approx(row["hb_of_mean"], abs=1e-9)


@pytest.mark.parametrize(("n", "delta"), [(1, 0.1), (20, 0.05), (800, 0.2)])
def test_closed_forms_at_risk_zero_and_one(n, delta):
    entropy = 1 - delta ** (1 / n)
    assert hoeffding_bentkus_ucb(0.0, n, delta) == pytest.approx(entropy, rel=1e-12)
    assert RULES["official"].ucb(0.0, n, delta) == pytest.approx(1 - (delta / math.e) ** (1 / n), rel=1e-12)
    assert official_ucb(0.0, n, delta) == 1.0
    assert all(bound(1.0, n, delta) == 1.0 for bound in MEAN_BOUNDS.values())
    assert wsr_ucb(np.ones(n), delta) == 1.0


def test_bentkus_part_against_binomial_distribution():
    for risk, n, delta in [(0.08, 200, 0.1), (0.5, 30, 0.05), (0.003, 1000, 0.2)]:
        bound = official_ucb(risk, n, delta)
        assert math.e * stats.binom.cdf(math.floor(n * risk + 1e-9), n, bound) == pytest.approx(delta, rel=1e-9)


def test_valid_bound_rounds_up_and_official_one_down():
    assert hoeffding_bentkus_ucb(0.081, 100, 0.5) > official_ucb(0.081, 100, 0.5)
    # 0.07 * 100 is 7.000000000000001 in floating point; both must see 7
    assert hoeffding_bentkus_ucb(0.07, 100, 0.9) <= official_ucb(0.07, 100, 0.9) + 1e-12


@pytest.mark.parametrize("name", MEAN_BOUNDS)
@given(risks=st.tuples(unit, unit), n=count, deltas=st.tuples(level, level))
def test_mean_bounds_are_monotone_and_lie_between_risk_and_one(name, risks, n, deltas):
    bound, (low, high) = MEAN_BOUNDS[name], sorted(risks)
    if name == "official" and low == 0.0:
        return  # risk 0 gives 1: an accident of the official code
    assert bound(low, n, deltas[0]) <= bound(high, n, deltas[0]) + 1e-9
    assert bound(low, n, max(deltas)) <= bound(low, n, min(deltas)) + 1e-9
    assert 0.0 <= bound(low, n, deltas[0]) <= 1.0
    assert name == "official" or bound(low, n, deltas[0]) >= low


@given(losses=st.lists(unit, min_size=1, max_size=60), deltas=st.tuples(level, level))
def test_wsr_lies_in_the_unit_interval_and_falls_with_delta(losses, deltas):
    strict, loose = wsr_ucb(losses, min(deltas)), wsr_ucb(losses, max(deltas))
    assert 0.0 < loose <= 1.0
    assert 0.0 < strict <= 1.0
    # The bets depend on delta too, so only the comparison at fixed bets is a theorem; equal losses show it.
    equal = [losses[0]] * len(losses)
    assert wsr_ucb(equal, max(deltas)) <= wsr_ucb(equal, min(deltas)) + 1e-9


@pytest.mark.parametrize("name", RULES)
@given(data=st.data(), n=st.integers(1, 80), alpha=level, delta=level)
def test_rule_agrees_with_its_bound(name, data, n, alpha, delta):
    losses = np.array(data.draw(st.lists(unit, min_size=n, max_size=n)))
    rule, asked = RULES[name], Level(alpha, delta, n)
    bound = rule.bound(losses, asked)
    if abs(bound - alpha) > 1e-6 and not (name == "official" and losses.mean() >= alpha):
        assert rule.passes(losses[:, None], asked)[0] == (bound <= alpha)


@pytest.mark.parametrize("name", RULES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), share=st.floats(0.0, 1.0))
def test_certificate_covers_everything_in_between(name, seed, n, share):
    generator = np.random.default_rng(seed)
    largest = generator.uniform(0, 0.2, (n, 1)) * generator.integers(0, 2, (n, 1))
    smallest = largest * generator.uniform(1 - share / 4, 1, (n, 1))
    asked, rule = Level(0.1, 0.3, n), RULES[name]
    between = smallest + (largest - smallest) * generator.integers(0, 2, (n, 40))
    if rule.certifies(largest, smallest, asked)[0]:
        assert rule.passes(between, asked).all()


def draw_losses(family, generator, shape):
    if family == "bernoulli":
        return generator.random(shape) < 0.1, 0.1
    if family == "beta":
        return generator.beta(1.0, 9.0, shape), 0.1
    if family == "spiky":
        return np.where(generator.random(shape) < 0.02, 1.0, 0.04), 0.02 + 0.98 * 0.04
    return np.full(shape, 0.3), 0.3


@pytest.mark.parametrize("family", ["bernoulli", "beta", "spiky", "constant"])
@pytest.mark.parametrize("name", ["hoeffding", "hoeffding_bentkus", "wsr"])
@pytest.mark.parametrize(("n", "delta"), [(10, 0.1), (60, 0.2)])
def test_failure_rate_is_at_most_delta(name, family, n, delta):
    """P(bound < true mean) <= delta, tested at the level of the true mean: the bound is below it where it passes."""
    n_repeats = 4000
    losses, mean = draw_losses(family, np.random.default_rng(20), (n, n_repeats))
    failures = RULES[name].passes(losses.astype(float), Level(mean - 1e-9, delta, n)).mean()
    assert failures <= delta + 3 * math.sqrt(delta * (1 - delta) / n_repeats)


def test_wsr_is_much_tighter_than_hoeffding_bentkus_for_even_losses():
    losses = np.random.default_rng(3).uniform(0.05, 0.15, 200)
    assert wsr_ucb(losses, 0.1) - losses.mean() < 0.5 * (hoeffding_bentkus_ucb(losses.mean(), 200, 0.1) - losses.mean())


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, math.nan])
def test_delta_out_of_range_is_named(delta):
    for call in (lambda: wsr_ucb([0.1], delta), lambda: hoeffding_ucb(0.1, 10, delta)):
        with pytest.raises(ConfigError, match="delta = "):
            call()


@pytest.mark.parametrize(("risk", "n", "message"), [(1.5, 10, "risk = 1.5"), (math.nan, 10, "risk"), (0.1, 0, "n = 0")])
def test_bad_risk_or_n_is_named(risk, n, message):
    for bound in MEAN_BOUNDS.values():
        with pytest.raises(ConfigError, match=message):
            bound(risk, n, 0.1)


def test_bad_losses_and_variant():
    for losses, error in [([], ShapeError), ([[0.1]], ShapeError), ([0.1, math.nan], DataError), ([1.2], DataError)]:
        with pytest.raises(error):
            wsr_ucb(losses, 0.1)
    with pytest.raises(ConfigError, match="variant"):
        official_ucb(0.1, 10, 0.1, "other")
