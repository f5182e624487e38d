"""What to tell where no scale controls the risk: how far the bound is from alpha, and how many units would do."""

from dataclasses import replace

from conffusion.calibration.risk_bounds import Level, RiskBound
from conffusion.calibration.search import RiskTest
from conffusion.core.arrays import FloatArray

_MAX_UNITS_NAMED = 1 << 20


def shortfall(risk_test: RiskTest, losses: FloatArray, where: str) -> str:
    """What went wrong and how many units would do, from the losses (n_units,) at the most favourable lambda."""
    return f"no lambda_hat: {missing(risk_test.bound, losses, risk_test.level, risk_test.units.noun, where)}"


def missing(bound: RiskBound, losses: FloatArray, level: Level, unit: str, where: str) -> str:
    """The same without a search: for losses judged by a bound."""
    risk = float(losses.mean())
    found = (
        f"the upper bound of the risk is {bound.value(losses, level):.4g} > alpha = {level.alpha:g} {where}, with n ="
        f" {level.n} {unit}s, delta = {level.delta:g} and risk {risk:.4g} there"
    )
    if risk >= level.alpha:
        return (
            f"{found}; a risk of alpha or more is left, so no number of {unit}s would do: correct bounds or targets,"
            " which must lie in [0, 1], lower <= upper"
        )
    return f"{found}; about {_units_needed(bound, losses, level)} {unit}s would be needed, or a larger alpha or delta"


def _units_needed(bound: RiskBound, losses: FloatArray, level: Level) -> str:
    """Smallest number of units, by doubling and bisection, at which losses like these would pass, as text."""

    def enough(n: int) -> bool:
        return bound.would_pass(losses, replace(level, n=n))

    low, high = level.n, 2 * level.n
    while not enough(high):
        low, high = high, 2 * high
        if high > max(_MAX_UNITS_NAMED, 64 * level.n):
            return f"more than {low}"
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return str(high)
