"""Upper confidence bounds on the mean of independent losses in [0, 1], one function each.

`hoeffding_ucb`, `hoeffding_bentkus_ucb` and `wsr_ucb` hold with probability at least 1 - delta for any number of
independent, identically distributed losses. `official_ucb` reproduces what the official code computes and does not.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import special

from conffusion.arrays import ArrayLike, FloatArray, as_numpy
from conffusion.errors import ConfigError, DataError, ShapeError

OfficialVariant = Literal["conffusion", "im2im_uq"]
_SMALLEST_LEVEL = 1e-12  # no bound of interest lies below; keeps every logarithm finite


def check_level(name: str, value: float) -> None:
    """Raise ConfigError unless `value` (alpha, delta, a quantile) lies strictly between 0 and 1; NaN does not."""
    if not 0.0 < value < 1.0:
        raise ConfigError(f"{name} = {value}: must lie in (0, 1)")


def hoeffding_ucb(risk: float, n: int, delta: float) -> float:
    """Simple Hoeffding bound min(1, risk + sqrt(log(1 / delta) / (2 n))).

    Args:
        risk: Mean of n losses, in [0, 1].
        n: Number of independent losses (images or groups), at least 1.
        delta: Allowed failure probability, in (0, 1).
    Returns:
        Bound in [risk, 1]; the true mean exceeds it with probability at most delta.
    Raises:
        ConfigError: If risk, n or delta is out of range.
    Source:
        Bates et al. 2021, "Distribution-free, risk-controlling prediction sets" (arXiv 2101.02703), section 3.1.1.
    """
    _check(risk, n, delta)
    return min(1.0, risk + math.sqrt(-math.log(delta) / (2 * n)))


def hoeffding_bentkus_ucb(risk: float, n: int, delta: float) -> float:
    """The smaller of the relative-entropy Hoeffding bound and the Bentkus bound, with n * risk rounded up.

    Bentkus' inequality speaks of P(Bin(n, mu) <= k) for integer k, so only rounding up is valid for losses that
    are not 0 or 1.

    Args:
        risk: Mean of n losses, in [0, 1].
        n: Number of independent losses (images or groups), at least 1.
        delta: Allowed failure probability, in (0, 1).
    Returns:
        Bound in [risk, 1]; the true mean exceeds it with probability at most delta.
    Raises:
        ConfigError: If risk, n or delta is out of range.
    Source:
        Bates et al. 2021 (arXiv 2101.02703), section 3.1.1, the Hoeffding-Bentkus bound:
        inf{mu >= risk: min(exp(-n KL(risk, mu)), e P(Bin(n, mu) <= ceil(n risk))) <= delta}.
    """
    _check(risk, n, delta)
    bentkus = bentkus_root(float(round_up(n * risk)), n, delta)
    return max(risk, min(_entropy_root(risk, n, delta), bentkus))


def official_ucb(risk: float, n: int, delta: float, variant: OfficialVariant = "conffusion") -> float:
    """The bound of the official code, accidents included: n * risk is rounded down, and risk 0 gives 1.

    It is not a valid bound for losses between 0 and 1. Under "conffusion" only the Bentkus part acts, because the
    Hoeffding exponent is taken at max(mu, risk) = mu and vanishes; "im2im_uq" uses both.

    Args:
        risk: Mean loss, in [0, 1].
        n: Number of losses, at least 1; the Conffusion code counts pixel values.
        delta: Error level, in (0, 1).
        variant: "conffusion" or "im2im_uq".
    Returns:
        Bound in [0, 1].
    Raises:
        ConfigError: If an argument is out of range or the variant is unknown.
    Source:
        Conformance fixtures stats/hb_conffusion and stats/hb_im2im_uq (facts.md, section 8).
    """
    _check(risk, n, delta)
    if variant not in ("conffusion", "im2im_uq"):
        raise ConfigError(f"variant = {variant!r}: must be 'conffusion' or 'im2im_uq'")
    if risk == 0.0:
        return 1.0
    bentkus = bentkus_root(float(round_down(n * risk)), n, delta)
    return bentkus if variant == "conffusion" else min(bentkus, _entropy_root(risk, n, delta))


def wsr_ucb(losses: ArrayLike, delta: float) -> float:
    """Betting bound of Waudby-Smith and Ramdas, with the bets of Bates et al.

    With mean_t = (1/2 + L_1 + .. + L_t) / (1 + t), var_t = (1/4 + sum_i (L_i - mean_i)^2) / (1 + t) and the bet
    b_t = min(1, sqrt(2 log(1 / delta) / (n var_{t-1}))), the bound is the smallest r at which the capital
    prod_{i <= t} (1 - b_i (L_i - r)) reaches 1 / delta at some t.

    Args:
        losses: (n,), in [0, 1], one independent loss per image or group. The order matters; it must not depend on
            the losses.
        delta: Allowed failure probability, in (0, 1).
    Returns:
        Bound in (0, 1]; the true mean exceeds it with probability at most delta.
    Raises:
        ShapeError: If losses is empty or not one-dimensional.
        DataError: If a loss is NaN or outside [0, 1].
        ConfigError: If delta is out of range.
    Source:
        Bates et al. 2021 (arXiv 2101.02703), section 3.1.3; Waudby-Smith and Ramdas 2024, "Estimating means of
        bounded random variables by betting" (JRSS B 86), one-sided hedged capital.
    """
    check_level("delta", delta)
    values = _checked_losses(losses)
    bets = wsr_bets(values, delta)
    goal = -math.log(delta)

    def excess(level: float) -> float:
        return float(log_capital(values, bets, level).max()) - goal

    if excess(1.0) < 0.0:
        return 1.0
    return _root(excess, _SMALLEST_LEVEL, 1.0, rtol=1e-14)


def wsr_bets(losses: FloatArray, delta: float) -> FloatArray:
    """Predictable bets b_t of `wsr_ucb`, in (0, 1], for losses (n, ...) with time along the first axis."""
    return bets_from_deviations(losses - shrunk_means(losses), delta)


def bets_from_deviations(deviations: FloatArray, delta: float) -> FloatArray:
    """The bets from the deviations L_i - mean_i of the losses from their running means; the smaller, the bolder."""
    variance = (0.25 + np.cumsum(deviations**2, axis=0)) / _steps(deviations)
    previous = np.concatenate([np.full_like(variance[:1], 0.25), variance[:-1]])
    return np.asarray(np.minimum(1.0, np.sqrt(-2.0 * math.log(delta) / len(deviations) / previous)))


def shrunk_means(losses: FloatArray) -> FloatArray:
    """Running means mean_t of `wsr_ucb`, along the first axis."""
    return np.asarray((0.5 + np.cumsum(losses, axis=0)) / _steps(losses))


def log_capital(losses: FloatArray, bets: FloatArray, level: float) -> FloatArray:
    """Logarithm of the capital prod_{i <= t} (1 - b_i (L_i - level)) at every t, along the first axis."""
    factors = np.maximum(1.0 - bets * (losses - level), 1e-300)
    return np.asarray(np.cumsum(np.log(factors), axis=0))


def bentkus_root(count: float, n: int, delta: float) -> float:
    """Solution mu of e P(Bin(n, mu) <= count) = delta, or 1 where there is none below 1."""
    return float(special.betainccinv(count + 1.0, n - count, delta / math.e)) if count < n else 1.0


def round_up(count: FloatArray | float) -> FloatArray:
    """Smallest integer >= count, forgiving the rounding error of a product n * risk."""
    return np.asarray(np.ceil(count - 1e-12 * np.maximum(count, 1.0)))


def round_down(count: FloatArray | float) -> FloatArray:
    """Largest integer <= count, forgiving the rounding error of a product n * risk."""
    return np.asarray(np.floor(count + 1e-12 * np.maximum(count, 1.0)))


def relative_entropy(risk: FloatArray | float, mu: float) -> FloatArray:
    """KL divergence of Bernoulli(risk) from Bernoulli(mu), in nats."""
    return np.asarray(special.rel_entr(risk, mu) + special.rel_entr(1.0 - np.asarray(risk), 1.0 - mu))


def _entropy_root(risk: float, n: int, delta: float) -> float:
    """Smallest mu >= risk with n KL(risk, mu) >= log(1 / delta)."""
    goal = -math.log(delta) / n
    if risk >= 1.0:
        return 1.0
    if risk == 0.0:
        return -math.expm1(-goal)
    top = 1.0 - 1e-16
    if float(relative_entropy(risk, top)) <= goal:
        return 1.0
    return _root(lambda mu: float(relative_entropy(risk, mu)) - goal, risk, top)


def _steps(losses: FloatArray) -> FloatArray:
    """1 + t for t = 1..n, shaped to divide `losses`."""
    return np.arange(2.0, losses.shape[0] + 2.0).reshape(-1, *(1,) * (losses.ndim - 1))


def _checked_losses(losses: ArrayLike) -> FloatArray:
    values = as_numpy(losses).astype(np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ShapeError(f"losses has shape {values.shape}: must be one-dimensional and not empty")
    if not bool(np.all((values >= 0.0) & (values <= 1.0))):
        raise DataError("losses must be numbers in [0, 1]; some are NaN or outside")
    return np.asarray(values)


def _check(risk: float, n: int, delta: float) -> None:
    check_level("delta", delta)
    if not 0.0 <= risk <= 1.0:
        raise ConfigError(f"risk = {risk}: must lie in [0, 1]")
    if n < 1:
        raise ConfigError(f"n = {n}: must be at least 1")


def _root(function: Callable[[float], float], low: float, high: float, rtol: float = 8.9e-16) -> float:
    from scipy import optimize  # here because few callers need a root, and the import takes long

    return float(optimize.brentq(function, low, high, xtol=1e-15, rtol=rtol))
