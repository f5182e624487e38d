"""Shares as percentages in sentences that claim something: never rounded in favour of the claim.

The share that is allowed and the probability of a guarantee are written exactly, a measured risk is rounded up, a lower
limit down. So a risk that is printed as at most the allowed share is at most that.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

_DECIMALS = 2


def exact_percent(share: float) -> str:
    """All digits of a share, as it is written in decimals: 0.025 gives "2.5 %"."""
    return _text(_percent(share))


def exact_percent_of_rest(share: float) -> str:
    """All digits of 1 - share: an error level of 0.1 gives "90 %"."""
    return _text(100 - _percent(share))


def percent_up(share: float, beside: float | None = None) -> str:
    """A measured share, rounded up: to two decimals, or to as many as `beside` has, if those are more.

    Args:
        share: The share; not NaN.
        beside: Share that is written exactly in the same sentence and compared with this one.
    """
    return _rounded(share, beside, ROUND_CEILING)


def percent_down(share: float, beside: float | None = None) -> str:
    """A lower limit of a share, rounded down; otherwise as `percent_up`."""
    return _rounded(share, beside, ROUND_FLOOR)


def _percent(share: float) -> Decimal:
    return Decimal(repr(float(share))) * 100


def _rounded(share: float, beside: float | None, rounding: str) -> str:
    decimals = _DECIMALS if beside is None else max(_DECIMALS, _n_decimals(_percent(beside)))
    return f"{_percent(share).quantize(Decimal(1).scaleb(-decimals), rounding=rounding):f} %"


def _n_decimals(value: Decimal) -> int:
    return max(0, -int(value.normalize().as_tuple().exponent))


def _text(value: Decimal) -> str:
    return f"{value.normalize():f} %"
