import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from conffusion.calibration import (
    bentkus_ucb,
    conformal_risk_control_ucb,
    hoeffding_bentkus_ucb,
    hoeffding_ucb,
    official_ucb,
)
from conffusion.calibration.risk_bounds import BOUNDS
from conffusion.errors import ConfigError
from tests import conformance

MEAN_BOUNDS = {
    "hoeffding": hoeffding_ucb,
    "bentkus": bentkus_ucb,
    "hoeffding_bentkus": hoeffding_bentkus_ucb,
    "official": official_ucb,
}
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


def test_conformal_risk_control_reproduces_krcps():
    description, arrays = conformance.load("stats/bounds_krcps")
    ours = on_axes(description, lambda r, n, _: conformal_risk_control_ucb(r, n))
    assert np.abs(ours - arrays["crc"]).max() < 1e-8


def test_official_bound_with_its_mean_reproduces_the_wsr_fixture():
    description, _ = conformance.load("stats/wsr_conffusion")
    for row in description["rows"]:
        assert official_ucb(row["mean"], row["n"], row["delta"]) == pytest.approx(row["hb_of_mean"], abs=1e-9)


@pytest.mark.parametrize(("n", "delta"), [(1, 0.1), (20, 0.05), (800, 0.2)])
def test_closed_forms_at_risk_zero_and_one(n, delta):
    entropy = 1 - delta ** (1 / n)
    assert hoeffding_bentkus_ucb(0.0, n, delta) == pytest.approx(entropy, rel=1e-12)
    assert bentkus_ucb(0.0, n, delta) == pytest.approx(1 - (delta / math.e) ** (1 / n), rel=1e-12)
    assert BOUNDS["official"].ucb(0.0, n, delta) == pytest.approx(1 - (delta / math.e) ** (1 / n), rel=1e-12)
    assert official_ucb(0.0, n, delta) == 1.0
    assert all(bound(1.0, n, delta) == 1.0 for bound in MEAN_BOUNDS.values())
    assert conformal_risk_control_ucb(0.0, n) == pytest.approx(1 / (n + 1), rel=1e-15)
    assert conformal_risk_control_ucb(1.0, n) == 1.0


def test_bentkus_part_against_binomial_distribution():
    for risk, n, delta in [(0.08, 200, 0.1), (0.5, 30, 0.05), (0.003, 1000, 0.2)]:
        bound = official_ucb(risk, n, delta)
        assert math.e * stats.binom.cdf(math.floor(n * risk + 1e-9), n, bound) == pytest.approx(delta, rel=1e-9)
        bound = bentkus_ucb(risk, n, delta)
        assert math.e * stats.binom.cdf(math.ceil(n * risk - 1e-9), n, bound) == pytest.approx(delta, rel=1e-9)


def test_valid_bound_rounds_up_and_official_one_down():
    assert hoeffding_bentkus_ucb(0.081, 100, 0.5) > official_ucb(0.081, 100, 0.5)
    # 0.07 * 100 is 7.000000000000001 in floating point; both must see 7
    assert hoeffding_bentkus_ucb(0.07, 100, 0.9) <= official_ucb(0.07, 100, 0.9) + 1e-12
    assert bentkus_ucb(0.07, 100, 0.9) == pytest.approx(official_ucb(0.07, 100, 0.9), abs=1e-12)


def test_rounding_down_fails_for_certain_where_rounding_up_holds():
    """Ten losses that are always 0.999: their mean is known, and the bound rounded down lies below it."""
    assert official_ucb(0.999, 10, 0.1) < 0.999 < bentkus_ucb(0.999, 10, 0.1)


def test_hoeffding_bentkus_is_the_better_of_its_parts():
    assert hoeffding_bentkus_ucb(0.05, 30, 0.1) < bentkus_ucb(0.05, 30, 0.1)  # 1.5 is rounded up to 2
    assert hoeffding_bentkus_ucb(0.02, 200, 0.001) == bentkus_ucb(0.02, 200, 0.001)


@pytest.mark.parametrize("name", MEAN_BOUNDS)
@given(risks=st.tuples(unit, unit), n=count, deltas=st.tuples(level, level))
def test_mean_bounds_are_monotone_and_lie_between_risk_and_one(name, risks, n, deltas):
    bound, (low, high) = MEAN_BOUNDS[name], sorted(risks)
    if name == "official" and low == 0.0:
        return  # risk 0 gives 1: an quirk of the official code
    assert bound(low, n, deltas[0]) <= bound(high, n, deltas[0]) + 1e-9
    assert bound(low, n, max(deltas)) <= bound(low, n, min(deltas)) + 1e-9
    assert 0.0 <= bound(low, n, deltas[0]) <= 1.0
    assert name == "official" or bound(low, n, deltas[0]) >= low


@given(risks=st.tuples(unit, unit), n=count)
def test_conformal_risk_control_is_monotone_and_lies_between_risk_and_one(risks, n):
    low, high = (conformal_risk_control_ucb(risk, n) for risk in sorted(risks))
    assert low <= high
    assert min(risks) - 1e-12 <= low
    assert high <= 1.0


@pytest.mark.parametrize("name", MEAN_BOUNDS)
@given(risk=st.floats(0.001, 1.0), delta=level)
def test_mean_bounds_tend_to_the_risk(name, risk, delta):
    gaps = [MEAN_BOUNDS[name](risk, n, delta) - risk for n in (10**4, 10**6, 10**8)]
    for n, gap in zip((10**4, 10**6, 10**8), gaps, strict=True):
        assert abs(gap) <= 3 * math.sqrt(-math.log(delta / math.e) / (2 * n)) + 2 / n
        assert 0.0 <= conformal_risk_control_ucb(risk, n) - risk + 1e-12 <= 1 / n


@pytest.mark.parametrize("name", MEAN_BOUNDS)
@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, math.nan])
def test_delta_out_of_range_is_named(name, delta):
    with pytest.raises(ConfigError, match="delta = "):
        MEAN_BOUNDS[name](0.1, 10, delta)


@pytest.mark.parametrize(("risk", "n", "message"), [(1.5, 10, "risk = 1.5"), (math.nan, 10, "risk"), (0.1, 0, "n = 0")])
def test_bad_risk_or_n_is_named(risk, n, message):
    for bound in MEAN_BOUNDS.values():
        with pytest.raises(ConfigError, match=message):
            bound(risk, n, 0.1)
    with pytest.raises(ConfigError, match=message):
        conformal_risk_control_ucb(risk, n)


def test_unknown_variant_is_named():
    with pytest.raises(ConfigError, match="variant"):
        official_ucb(0.1, 10, 0.1, "other")
