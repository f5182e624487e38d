"""Percentages in sentences that claim something never round in favour of the claim."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conffusion.core.percent import exact_percent, exact_percent_of_rest, percent_down, percent_up

shares = st.floats(min_value=0.0, max_value=1.0)
levels = st.integers(1, 99_999).map(lambda number: number / 100_000)  # as people write them: at most five decimals


def number(text: str) -> Decimal:
    assert text.endswith(" %")
    return Decimal(text.removesuffix(" %")) / 100


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.025, "2.5 %"),
        (0.1, "10 %"),
        (0.02, "2 %"),
        (0.001, "0.1 %"),
        (1.0, "100 %"),
        (0.0, "0 %"),
        (1e-7, "0.00001 %"),
    ],
)
def test_levels_are_written_exactly(share: float, text: str) -> None:
    assert exact_percent(share) == text


def test_the_probability_is_what_delta_leaves() -> None:
    assert exact_percent_of_rest(0.1) == "90 %"
    assert exact_percent_of_rest(0.005) == "99.5 %"


def test_risks_are_rounded_away_from_what_is_claimed() -> None:
    assert percent_up(0.02401) == "2.41 %"
    assert percent_down(0.02409) == "2.40 %"
    assert percent_up(0.024) == "2.40 %"


@given(shares, levels)
def test_a_risk_looks_controlled_only_where_it_is(risk: float, alpha: float) -> None:
    assert (number(percent_up(risk, beside=alpha)) <= number(exact_percent(alpha))) == (risk <= alpha)


@given(shares, levels)
def test_a_lower_limit_looks_violated_only_where_it_is(low: float, alpha: float) -> None:
    if number(percent_down(low, beside=alpha)) > number(exact_percent(alpha)):
        assert low > alpha


@given(shares)
def test_rounding_is_by_less_than_a_hundredth_of_a_percent(share: float) -> None:
    exact = Decimal(repr(share))
    assert number(percent_down(share)) <= exact <= number(percent_up(share))
    assert number(percent_up(share)) - number(percent_down(share)) <= Decimal("0.0001")
