"""Betting bounds: the mean is at most r where a bet against it, placed anew before each loss, wins too much.

They use every loss, in order, and hold with probability at least 1 - delta for any number of independent, identically
distributed losses in [0, 1].
"""

import math

import numpy as np

from conffusion.calibration.ucb import check_level, checked_losses, find_root
from conffusion.core.arrays import ArrayLike, BoolArray, FloatArray
from conffusion.errors import ConfigError

EXPECTED_DEVIATION = 0.05  # of image losses about their mean, as far as the bets of `star_ucb` care
_SMALLEST_LEVEL = 1e-12  # no bound of interest lies below; keeps every logarithm finite
_LEVELS = 64  # tried at once by `star_ucb`, eight times over


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


def star_ucb(losses: ArrayLike, delta: float, *, deviation: float = EXPECTED_DEVIATION) -> float:
    """Betting bound whose bets are placed anew from what is still to be won, after STaR-Bets.

    With c the capital before loss t, as a share of the goal 1 / delta, and b = min(c, e^-1/2), the stake is
    min(b sqrt(2 log(1 / b) / (n - t + 1)) / deviation, c / (1 - r)); what the loss leaves is c - stake (L_t - r). The
    bound is the smallest r at which the goal is reached. No bound can do much better where losses vary little: at
    alpha = delta = 0.1 and n = 200 equal losses of 0.0895 pass, and a mean above 0.0896 could hide one image in 87 that
    is missed altogether.

    Unlike in the paper the deviation is a constant and the stake never falls when the capital rises. The capital then
    falls with every loss, so the bound never falls when losses rise and no scale between two passing ones can fail.

    Args:
        losses: (n,), in [0, 1], one independent loss per image or group. The order matters; it must not depend on
            the losses.
        delta: Allowed failure probability, in (0, 1).
        deviation: Standard deviation that the losses are expected to have, > 0; any constant is valid, and at n < 1000
            values between half and twice the true one give nearly the same bound.
    Returns:
        Bound in (0, 1]; the true mean exceeds it with probability at most delta.
    Raises:
        ShapeError: If losses is empty or not one-dimensional.
        DataError: If a loss is NaN or outside [0, 1].
        ConfigError: If delta or the deviation is out of range.
    Source:
        Voracek and Orabona 2025, "STaR-Bets: sequential target-recalculating bets for tighter confidence intervals"
        (arXiv 2505.22422); validity: Ville's inequality for a nonnegative supermartingale, as in `wsr_ucb`.
    """
    check_level("delta", delta)
    if not 0.0 < deviation < math.inf:
        raise ConfigError(f"deviation = {deviation}: must be positive and finite")
    column = checked_losses(losses)[:, None]
    low, high = 0.0, 1.0
    while high - low > 1e-13:
        levels = np.linspace(low, high, _LEVELS + 1)[1:]
        passing = np.append(star_passes(column, levels[:-1], delta, deviation), True)
        first = int(np.argmax(passing))
        low, high = (levels[first - 1] if first else low), levels[first]
    return float(high)


def star_passes(losses: FloatArray, level: FloatArray | float, delta: float, deviation: float) -> BoolArray:
    """Whether the bound of `star_ucb` is at most `level`, for losses (n, n_columns) and one level or one per column."""
    n_losses = len(losses)
    share = np.full(np.broadcast_shapes(losses.shape[1:], np.shape(level)), delta)
    for t, loss in enumerate(losses):
        base = np.clip(share, 1e-300, math.exp(-0.5))
        stake = base * np.sqrt(-2.0 * np.log(base) / (n_losses - t)) / deviation
        most = share / (1.0 - level)
        after = most * (1.0 - loss) + np.maximum(most - stake, 0.0) * (loss - level)  # what is lost whole is exactly 0
        share = np.where(share < 1.0, after, share)
    return np.asarray(share >= 1.0)


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
