import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from conffusion.calibration import (
    calibrate,
    clt_ucb,
    conformal_risk_control_ucb,
    empirical_bernstein_ucb,
    star_ucb,
    wsr_ucb,
)
from conffusion.calibration.risk_bounds import BOUNDS, Level, MeanBound, VarianceBound, get_bound
from conffusion.core.choices import BoundName
from conffusion.errors import ConfigError

STRENGTHS = {
    "wsr": "finite_sample",
    "star": "finite_sample",
    "hoeffding_bentkus": "finite_sample",
    "bentkus": "finite_sample",
    "hoeffding": "finite_sample",
    "empirical_bernstein": "finite_sample",
    "clt": "asymptotic",
    "conformal_risk_control": "mean_only",
    "official": "none",
}
FINITE_SAMPLE = [name for name, bound in BOUNDS.items() if bound.strength == "finite_sample"]
ORDER_FREE = [name for name in FINITE_SAMPLE if isinstance(BOUNDS[name], MeanBound | VarianceBound)]
FAMILIES = ["bernoulli", "beta", "spiky", "skewed", "concentrated", "atoms", "discrete", "even", "turned", "constant"]
BOUNDS_OF_LOSSES = {"wsr": wsr_ucb, "star": star_ucb, "empirical_bernstein": empirical_bernstein_ucb, "clt": clt_ucb}
unit = st.floats(0.0, 1.0)
level = st.floats(0.01, 0.9)


def test_every_bound_says_what_it_guarantees():
    assert {name: bound.strength for name, bound in BOUNDS.items()} == STRENGTHS
    assert set(BOUNDS) == {name for part in get_args(BoundName) for name in get_args(part)}
    with pytest.raises(ConfigError, match="ucb = 'magic': must be one of wsr, "):
        get_bound("magic")


@pytest.mark.parametrize("name", BOUNDS)
@given(data=st.data(), n=st.integers(1, 80), alpha=level, delta=level)
def test_the_test_agrees_with_the_bound(name, data, n, alpha, delta):
    losses = np.array(data.draw(st.lists(unit, min_size=n, max_size=n)))
    bound, asked = BOUNDS[name], Level(alpha, delta, n)
    risk_ucb = bound.value(losses, asked)
    if abs(risk_ucb - alpha) > 1e-6 and not (name == "official" and losses.mean() >= alpha):
        assert bound.passes(losses[:, None], asked)[0] == (risk_ucb <= alpha)


@pytest.mark.parametrize("name", BOUNDS_OF_LOSSES)
@given(losses=st.lists(unit, min_size=1, max_size=60), delta=level)
def test_value_of_a_bound_is_the_public_function(name, losses, delta):
    bound = BOUNDS[name].value(np.array(losses), Level(0.1, delta, len(losses)))
    assert bound == BOUNDS_OF_LOSSES[name](losses, delta)


@given(risk=unit, n=st.integers(1, 2000), delta=level)
def test_conformal_risk_control_ignores_delta(risk, n, delta):
    bound, losses = BOUNDS["conformal_risk_control"], np.full(1, risk)
    risk_ucb = conformal_risk_control_ucb(risk, n)
    assert bound.value(losses, Level(0.1, delta, n)) == risk_ucb
    for alpha in (risk_ucb * (1 - 1e-9), risk_ucb * (1 + 1e-9)):
        if alpha < 1:
            assert bound.passes(losses[:, None], Level(alpha, delta, n))[0] == (risk_ucb < alpha)


@pytest.mark.parametrize("total", [0, 1, 2, 7])
@pytest.mark.parametrize("n", [19, 39, 299])
def test_conformal_risk_control_accepts_a_tie_in_spite_of_rounding(n, total):
    losses = np.zeros((n, 1))
    losses[: 10 * total] = 0.1
    alpha = (total + 1) / (n + 1)
    if 10 * total <= n:
        assert BOUNDS["conformal_risk_control"].passes(losses, Level(alpha, 0.1, n))[0]


@pytest.mark.parametrize("name", BOUNDS)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), share=st.floats(0.0, 1.0))
def test_certificate_covers_everything_in_between(name, seed, n, share):
    generator = np.random.default_rng(seed)
    largest = generator.uniform(0, 0.2, (n, 1)) * generator.integers(0, 2, (n, 1))
    smallest = largest * generator.uniform(1 - share / 4, 1, (n, 1))
    asked, bound = Level(0.1, 0.3, n), BOUNDS[name]
    between = smallest + (largest - smallest) * generator.integers(0, 2, (n, 40))
    if bound.certifies(largest, smallest, asked)[0]:
        assert bound.passes(between, asked).all()


@pytest.mark.parametrize("name", BOUNDS)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), delta=level)
def test_certificate_is_tight_where_both_ends_coincide(name, seed, n, delta):
    losses = np.random.default_rng(seed).uniform(0, 0.2, (n, 50)) * np.linspace(0, 1, 50)
    asked, bound = Level(0.1, delta, n), BOUNDS[name]
    assert np.array_equal(bound.certifies(losses, losses, asked), bound.passes(losses, asked))


@pytest.mark.parametrize("name", ["clt", "empirical_bernstein"])
def test_variance_rules_know_that_passing_at_both_ends_proves_nothing(name):
    """Smaller losses of half of the units spread more: both ends pass and the middle does not."""
    largest, smallest = np.full((400, 1), 0.5), np.full((400, 1), 0.3)
    middle = np.where(np.arange(400)[:, None] < 4, smallest, largest)
    bounds = [BOUNDS[name].value(losses[:, 0], Level(0.5, 0.01, 400)) for losses in (largest, smallest, middle)]
    asked, bound = Level((bounds[0] + bounds[2]) / 2, 0.01, 400), BOUNDS[name]
    assert max(bounds[:2]) < bounds[2]
    assert bound.passes(largest, asked)[0]
    assert bound.passes(smallest, asked)[0]
    assert not bound.passes(middle, asked)[0]
    assert not bound.certifies(largest, smallest, asked)[0]


def draw_losses(family, generator, shape):
    if family == "bernoulli":
        return generator.random(shape) < 0.1, 0.1
    if family == "beta":
        return generator.beta(1.0, 9.0, shape), 0.1
    if family == "spiky":
        return np.where(generator.random(shape) < 0.02, 1.0, 0.04), 0.02 + 0.98 * 0.04
    if family == "skewed":
        return generator.beta(0.5, 4.5, shape), 0.1
    if family == "concentrated":
        return generator.beta(20.0, 180.0, shape), 0.1
    if family == "atoms":  # 0, 1 and anything up to 0.2
        kind = generator.random(shape)
        between = generator.uniform(0.0, 0.2, shape)
        return np.where(kind < 0.6, 0.0, np.where(kind < 0.65, 1.0, between)), 0.05 + 0.35 * 0.1
    if family == "discrete":  # missed pixels of images of 768 pixels
        return generator.binomial(768, generator.beta(1.0, 9.0, shape)) / 768, 0.1
    if family == "even":
        return generator.random(shape) < 0.5, 0.5
    if family == "turned":
        return 1.0 - generator.beta(0.5, 4.5, shape), 0.9
    return np.full(shape, 0.3), 0.3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", FINITE_SAMPLE)
@pytest.mark.parametrize(("n", "delta"), [(10, 0.1), (20, 0.1), (20, 0.5), (60, 0.2), (100, 0.1), (100, 0.5)])
def test_failure_rate_is_at_most_delta(name, family, n, delta):
    """P(bound < true mean) <= delta, tested at the level of the true mean: the bound is below it where it passes."""
    n_repeats = 4000
    losses, mean = draw_losses(family, np.random.default_rng(20), (n, n_repeats))
    failures = BOUNDS[name].passes(losses.astype(float), Level(mean - 1e-9, delta, n)).mean()
    assert failures <= delta + 3 * math.sqrt(delta * (1 - delta) / n_repeats)


@pytest.mark.parametrize("name", ORDER_FREE)
@pytest.mark.parametrize("n", [5, 20, 100])
@pytest.mark.parametrize("delta", [0.05, 0.1, 0.5])
def test_failure_rate_of_losses_0_and_1_is_at_most_delta_exactly(name, n, delta):
    """Summed over the binomial distribution of the number of ones, for 199 true means."""
    losses = (np.arange(n)[:, None] < np.arange(n + 1)).astype(float)
    for mean in np.linspace(0.005, 0.995, 199):
        fails = BOUNDS[name].passes(losses, Level(mean - 1e-9, delta, n))
        assert stats.binom.pmf(np.arange(n + 1), n, mean)[fails].sum() <= delta


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.1), (50, 0.2)])
def test_conformal_risk_control_keeps_the_mean_risk(n, alpha):
    """E(true risk at lambda_hat) lies between alpha - 2 / (n + 1) and alpha: theorems 1 and 2 of the paper.

    The pixels of an image have a common exponential hardness times 1/2, 1, 3/2 and 2, in any order; where critical
    values are spread without atoms the second theorem says that nothing is given away.
    """
    generator, factors = np.random.default_rng(9), np.array([0.5, 1.0, 1.5, 2.0])
    risks = []
    for _ in range(400):
        critical = generator.exponential(1.0, (n, 1)) * generator.permuted(np.tile(factors, (n, 1)), axis=1)
        target = np.zeros((n, 4))
        found = calibrate(
            critical / 100, target + 1, target, alpha=alpha, delta=0.1, scaling="additive", ucb="conformal_risk_control"
        )
        risks.append(np.exp(-100 * found.lambda_hat / factors).mean())
    error = 3 * np.std(risks) / math.sqrt(len(risks))
    assert alpha - 2 / (n + 1) - error <= np.mean(risks) <= alpha + error


@pytest.mark.parametrize("ucb", ["clt", "empirical_bernstein"])
def test_variance_rules_refuse_pixels_as_units(ucb):
    half = np.full((5, 4), 0.5)
    with pytest.raises(ConfigError, match=f"ucb = '{ucb}' with unit = 'pixel'"):
        calibrate(half, half, half, alpha=0.1, delta=0.1, unit="pixel", ucb=ucb)
