"""Betting bounds: the mean is at most r where a bet against it, placed anew before each loss, wins too much.

They use every loss, in order, and hold with probability at least 1 - delta for any number of independent, identically
distributed losses in [0, 1].
"""

import math

import numpy as np

from conffusion.arrays import ArrayLike, FloatArray
from conffusion.calibration.ucb import check_level, checked_losses, find_root

_SMALLEST_LEVEL = 1e-12  # no bound of interest lies below; keeps every logarithm finite


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
    values = checked_losses(losses)
    bets = wsr_bets(values, delta)
    goal = -math.log(delta)

    def excess(level: float) -> float:
        return float(log_capital(values, bets, level).max()) - goal

    if excess(1.0) < 0.0:
        return 1.0
    return find_root(excess, _SMALLEST_LEVEL, 1.0, rtol=1e-14)


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


def bet_range(largest: FloatArray, smallest: FloatArray, delta: float) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest bets of `wsr_bets` over all losses between `smallest` and `largest`, elementwise."""
    mean_low, mean_high = shrunk_means(smallest), shrunk_means(largest)
    far = np.maximum(largest - mean_low, mean_high - smallest)
    near = np.maximum(np.maximum(smallest - mean_high, mean_low - largest), 0.0)
    return bets_from_deviations(far, delta), bets_from_deviations(near, delta)


def _steps(losses: FloatArray) -> FloatArray:
    """1 + t for t = 1..n, shaped to divide `losses`."""
    return np.arange(2.0, losses.shape[0] + 2.0).reshape(-1, *(1,) * (losses.ndim - 1))
