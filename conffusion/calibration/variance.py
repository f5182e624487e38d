"""Upper confidence bounds on the mean of independent losses in [0, 1] that use the sample variance.

Each is the mean loss plus a margin that grows with the sample variance V (divisor n - 1). As V is unknown from a single
loss, one loss gives no bound below 1.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from conffusion.calibration.ucb import check_level, checked_losses
from conffusion.core.arrays import ArrayLike, FloatArray

Margin = Callable[[FloatArray, int, float], FloatArray]


def empirical_bernstein_ucb(losses: ArrayLike, delta: float) -> float:
    """Empirical Bernstein bound min(1, mean + sqrt(2 V log(2 / delta) / n) + 7 log(2 / delta) / (3 (n - 1))).

    Args:
        losses: (n,), in [0, 1], one independent loss per image or group.
        delta: Allowed failure probability, in (0, 1).
    Returns:
        Bound in [mean, 1]; the true mean exceeds it with probability at most delta. 1 for a single loss.
    Raises:
        ShapeError: If losses is empty or not one-dimensional.
        DataError: If a loss is NaN or outside [0, 1].
        ConfigError: If delta is out of range.
    Source:
        Maurer and Pontil 2009, "Empirical Bernstein bounds and sample variance penalization" (arXiv 0907.3740),
        Theorem 4: one-sided, for a number of losses fixed in advance.
    """
    return _ucb(losses, delta, empirical_bernstein_margin)


def clt_ucb(losses: ArrayLike, delta: float) -> float:
    """Normal approximation min(1, mean + z sqrt(V / n)), z the 1 - delta quantile of the normal distribution.

    It carries no finite-sample guarantee: the failure probability tends to delta as n grows, but for a given n it can
    be far larger, most of all where large losses are rare (if all n losses are 0, so is the bound).

    Args:
        losses: (n,), in [0, 1], one independent loss per image or group.
        delta: Error level, in (0, 1); from 1/2 upwards z is taken as 0, so that the bound is never below the mean.
    Returns:
        Number in [mean, 1]; 1 for a single loss.
    Raises:
        ShapeError: If losses is empty or not one-dimensional.
        DataError: If a loss is NaN or outside [0, 1].
        ConfigError: If delta is out of range.
    Source:
        Central limit theorem, with the standard deviation estimated.
    """
    return _ucb(losses, delta, clt_margin)


def empirical_bernstein_margin(variance: FloatArray, n: int, delta: float) -> FloatArray:
    """What `empirical_bernstein_ucb` adds to the means of n losses with these sample variances; infinite for n = 1."""
    if n < 2:
        return np.full_like(variance, np.inf)
    log_term = math.log(2.0 / delta)
    return np.asarray(np.sqrt(2.0 * variance * log_term / n) + 7.0 * log_term / (3.0 * (n - 1)))


def clt_margin(variance: FloatArray, n: int, delta: float) -> FloatArray:
    """What `clt_ucb` adds to the means of n losses with these sample variances; infinite for n = 1."""
    if n < 2:
        return np.full_like(variance, np.inf)
    return np.asarray(max(0.0, -float(special.ndtri(delta))) * np.sqrt(variance / n))


def sample_variance(losses: FloatArray) -> FloatArray:
    """Sample variance along the first axis, divisor n - 1; 0 for a single loss."""
    return largest_variance(losses, losses)


def largest_variance(largest: FloatArray, smallest: FloatArray) -> FloatArray:
    """Upper bound on the sample variance, along the first axis, of all losses with smallest <= L <= largest.

    Squared distances from any fixed number sum to no less than those from the mean, and each is largest at an end of
    its loss's range. The number is the mean of the ranges' middles, so the bound is exact where both ends coincide.
    """
    centre = (0.5 * (largest + smallest)).mean(axis=0)
    distance = np.maximum(largest - centre, centre - smallest)
    return np.asarray((distance**2).sum(axis=0) / max(len(largest) - 1, 1))


def _ucb(losses: ArrayLike, delta: float, margin: Margin) -> float:
    check_level("delta", delta)
    values = checked_losses(losses)
    return min(1.0, float(values.mean() + margin(sample_variance(values), len(values), delta)))
