"""Upper confidence bounds on the mean of independent losses in [0, 1] that look at the mean loss only.

`hoeffding_ucb`, `bentkus_ucb` and `hoeffding_bentkus_ucb` hold with probability at least 1 - delta for any number of
independent, identically distributed losses. `official_ucb` reproduces what the official code computes and does not.
`conformal_risk_control_ucb` bounds nothing with a probability: comparing it with alpha controls the risk on average.
Bounds that look at every loss are in `betting` and `variance`; the checks and the root finder here serve them too.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import special

from conffusion.core.arrays import ArrayLike, FloatArray, as_numpy
from conffusion.errors import ConfigError, DataError, ShapeError

OfficialVariant = Literal["conffusion", "im2im_uq"]


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


def bentkus_ucb(risk: float, n: int, delta: float) -> float:
    """Bentkus bound: the mu at which e P(Bin(n, mu) <= ceil(n risk)) falls to delta.

    The inequality speaks of integers only. Rounding n * risk up keeps the bound valid for losses between 0 and 1;
    rounded down it would fail for certain when all losses are 0.999 and n = 10.

    Args:
        risk: Mean of n losses, in [0, 1].
        n: Number of independent losses (images or groups), at least 1.
        delta: Allowed failure probability, in (0, 1).
    Returns:
        Bound in [risk, 1]; the true mean exceeds it with probability at most delta.
    Raises:
        ConfigError: If risk, n or delta is out of range.
    Source:
        Bentkus 2004, "On Hoeffding's inequalities" (Annals of Probability 32); as a confidence bound in Bates et al.
        2021 (arXiv 2101.02703), section 3.1.1.
    """
    _check(risk, n, delta)
    return bentkus_root(float(round_up(n * risk)), n, delta)


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
    """The bound of the official code, quirks included: n * risk is rounded down, and risk 0 gives 1.

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
        Conformance fixtures stats/hb_conffusion and stats/hb_im2im_uq (docs/official_code.md, section 8).
    """
    _check(risk, n, delta)
    if variant not in ("conffusion", "im2im_uq"):
        raise ConfigError(f"variant = {variant!r}: must be 'conffusion' or 'im2im_uq'")
    if risk == 0.0:
        return 1.0
    bentkus = bentkus_root(float(round_down(n * risk)), n, delta)
    return bentkus if variant == "conffusion" else min(bentkus, _entropy_root(risk, n, delta))


def conformal_risk_control_ucb(risk: float, n: int) -> float:
    """Mean of the n losses and one more of 1, the largest possible: n / (n + 1) risk + 1 / (n + 1).

    It is not an upper confidence bound and knows no delta. The smallest lambda at which it is at most alpha has a
    risk of at most alpha on average over calibration sets; for a single set nothing is guaranteed. That needs losses
    that never rise with lambda and can be brought down to alpha, as those of growing intervals are.

    Args:
        risk: Mean of n losses, in [0, 1].
        n: Number of exchangeable losses (images or groups), at least 1.
    Returns:
        Number in [risk, 1], to be compared with alpha.
    Raises:
        ConfigError: If risk or n is out of range.
    Source:
        Angelopoulos et al. 2024, "Conformal risk control" (ICLR; arXiv 2208.02814), equation for lambda_hat and
        Theorem 1, with largest loss B = 1.
    """
    _check_mean(risk, n)
    return (n * risk + 1.0) / (n + 1)


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
    return find_root(lambda mu: float(relative_entropy(risk, mu)) - goal, risk, top)


def checked_losses(losses: ArrayLike) -> FloatArray:
    """The losses as float64.

    Raises:
        ShapeError: If they are not one-dimensional, or none.
        DataError: If one is NaN or outside [0, 1].
    """
    values = as_numpy(losses).astype(np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ShapeError(f"losses has shape {values.shape}: must be one-dimensional and not empty")
    if not bool(np.all((values >= 0.0) & (values <= 1.0))):
        raise DataError("losses must be numbers in [0, 1]; some are NaN or outside")
    return np.asarray(values)


def _check(risk: float, n: int, delta: float) -> None:
    check_level("delta", delta)
    _check_mean(risk, n)


def _check_mean(risk: float, n: int) -> None:
    if not 0.0 <= risk <= 1.0:
        raise ConfigError(f"risk = {risk}: must lie in [0, 1]")
    if n < 1:
        raise ConfigError(f"n = {n}: must be at least 1")


def find_root(function: Callable[[float], float], low: float, high: float, rtol: float = 8.9e-16) -> float:
    """Where `function`, of opposite signs at `low` and `high`, crosses zero."""
    from scipy import optimize  # here because few callers need a root, and the import takes long

    return float(optimize.brentq(function, low, high, xtol=1e-15, rtol=rtol))
