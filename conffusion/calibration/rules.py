"""Acceptance rules: does the upper bound of the risk lie at or below alpha? One `Rule` per bound, in `RULES`.

The search asks this thousands of times, so no rule inverts its bound: a rule tests the level alpha directly, for many
columns of losses at once. Losses are (n_units, n_columns), one column per lambda (or per draw), time along axis 0.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from scipy import special

from conffusion.arrays import BoolArray, FloatArray
from conffusion.calibration.ucb import (
    bentkus_root,
    bets_from_deviations,
    hoeffding_bentkus_ucb,
    hoeffding_ucb,
    log_capital,
    official_ucb,
    relative_entropy,
    round_down,
    round_up,
    shrunk_means,
    wsr_bets,
    wsr_ucb,
)
from conffusion.errors import ConfigError

Tail = Callable[[FloatArray, int | FloatArray, float], FloatArray]


@dataclass(frozen=True)
class Level:
    """What is promised: risk at most `alpha`, except with probability `delta`; `n` is the number given to the bound."""

    alpha: float
    delta: float
    n: int


class Rule(Protocol):
    """One upper confidence bound, as a test."""

    def bound(self, losses: FloatArray, level: Level) -> float:
        """Upper confidence bound of one column of losses (n_units,)."""

    def passes(self, losses: FloatArray, level: Level) -> BoolArray:
        """Whether the bound of each column of (n_units, n_columns) is at most alpha."""

    def certifies(self, largest: FloatArray, smallest: FloatArray, level: Level) -> BoolArray:
        """Whether all losses L with smallest <= L <= largest, elementwise, pass."""

    def would_pass(self, losses: FloatArray, level: Level) -> bool:
        """Whether `level.n` units with losses like the given ones (n_units,) would pass."""


@dataclass(frozen=True)
class MeanRule:
    """A bound that depends on the mean loss only and never falls when the mean rises.

    Attributes:
        ucb: (mean, n, delta) -> bound.
        tail: (means, n, alpha) -> bound on the probability of a mean this small if the true mean were alpha;
            the bound is at most alpha exactly where the tail is at most delta.
    """

    ucb: Callable[[float, int, float], float]
    tail: Tail

    def bound(self, losses: FloatArray, level: Level) -> float:
        """Upper confidence bound of one column of losses (n_units,)."""
        return self.ucb(float(losses.mean()), level.n, level.delta)

    def passes(self, losses: FloatArray, level: Level) -> BoolArray:
        """Whether the bound of each column of (n_units, n_columns) is at most alpha."""
        return self.accepts(losses.mean(axis=0), level.n, level)

    def accepts(self, means: FloatArray, n: int | FloatArray, level: Level) -> BoolArray:
        """The same from mean losses, with `n` (a number, or one per mean) instead of `level.n`."""
        return np.asarray(self.tail(means, n, level.alpha) <= level.delta)

    def certifies(self, largest: FloatArray, smallest: FloatArray, level: Level) -> BoolArray:
        """Whether all losses in between pass: as the bound is monotone, whether the largest do."""
        return self.passes(largest, level)

    def would_pass(self, losses: FloatArray, level: Level) -> bool:
        """Whether the mean of the losses would pass with `level.n` units."""
        return bool(self.passes(losses[:, None], level)[0])


@dataclass(frozen=True)
class BettingRule:
    """The Waudby-Smith-Ramdas bound, which depends on every loss and on their order."""

    def bound(self, losses: FloatArray, level: Level) -> float:
        """Upper confidence bound of one column of losses (n_units,)."""
        return wsr_ucb(losses, level.delta)

    def passes(self, losses: FloatArray, level: Level) -> BoolArray:
        """Whether the capital at level alpha ever reaches 1 / delta; it grows with the level, so no root is needed."""
        capital = log_capital(losses, wsr_bets(losses, level.delta), level.alpha)
        return np.asarray(capital.max(axis=0) >= -math.log(level.delta))

    def certifies(self, largest: FloatArray, smallest: FloatArray, level: Level) -> BoolArray:
        """Whether a lower bound on the capital of all losses in between reaches 1 / delta.

        Smaller losses can raise the estimated variance, shrink the bets and so raise the bound: passing at both ends
        proves nothing about the middle. Here each factor 1 - b_i (L_i - alpha) is replaced by its smallest value
        over the box, with L_i at its largest and b_i the largest bet where that loss exceeds alpha, else the smallest.
        """
        low_bets, high_bets = _bet_range(largest, smallest, level.delta)
        bets = np.where(largest > level.alpha, high_bets, low_bets)
        return np.asarray(log_capital(largest, bets, level.alpha).max(axis=0) >= -math.log(level.delta))

    def would_pass(self, losses: FloatArray, level: Level) -> bool:
        """Whether the losses, repeated in their order until there are `level.n`, would pass."""
        return bool(self.passes(np.resize(losses, level.n)[:, None], level)[0])


def _bet_range(largest: FloatArray, smallest: FloatArray, delta: float) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest bets of `wsr_bets` over all losses between `smallest` and `largest`."""
    mean_low, mean_high = shrunk_means(smallest), shrunk_means(largest)
    far = np.maximum(largest - mean_low, mean_high - smallest)
    near = np.maximum(np.maximum(smallest - mean_high, mean_low - largest), 0.0)
    return bets_from_deviations(far, delta), bets_from_deviations(near, delta)


def _hoeffding_tail(means: FloatArray, n: int | FloatArray, alpha: float) -> FloatArray:
    return np.where(means <= alpha, np.exp(-2.0 * n * (alpha - means) ** 2), 1.0)


def _hoeffding_bentkus_tail(means: FloatArray, n: int | FloatArray, alpha: float) -> FloatArray:
    entropy = np.exp(-n * relative_entropy(np.minimum(means, alpha), alpha))
    return np.where(means <= alpha, np.minimum(entropy, _bentkus_tail(round_up(n * means), n, alpha)), 1.0)


def _official_tail(means: FloatArray, n: int | FloatArray, alpha: float) -> FloatArray:
    """As official_ucb, but a mean of 0 is judged by the formula, and a mean at or above alpha never passes."""
    return np.where(means < alpha, _bentkus_tail(round_down(n * means), n, alpha), 1.0)


def _bentkus_tail(counts: FloatArray, n: int | FloatArray, alpha: float) -> FloatArray:
    """e P(Bin(n, alpha) <= counts)."""
    below = np.minimum(counts, np.asarray(n) - 1.0)
    return np.where(counts < n, math.e * special.betaincc(below + 1.0, n - below, alpha), math.e)


def _official_ucb_mended(mean: float, n: int, delta: float) -> float:
    return bentkus_root(0.0, n, delta) if mean == 0.0 else official_ucb(mean, n, delta)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "wsr": BettingRule(),
        "hoeffding_bentkus": MeanRule(hoeffding_bentkus_ucb, _hoeffding_bentkus_tail),
        "hoeffding": MeanRule(hoeffding_ucb, _hoeffding_tail),
        "official": MeanRule(_official_ucb_mended, _official_tail),
    }
)


def get_rule(name: str) -> Rule:
    """The acceptance rule called `name`.

    Raises:
        ConfigError: If there is none.
    """
    if name not in RULES:
        raise ConfigError(f"ucb = {name!r}: must be one of {', '.join(RULES)}")
    return RULES[name]
