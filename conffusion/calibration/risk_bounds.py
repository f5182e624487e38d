"""Upper confidence bounds of the risk as tests: is the bound at most alpha? Each is a `RiskBound` in `BOUNDS`.

The search asks this thousands of times, so no bound is inverted: the level alpha is tested directly, for many
columns of losses at once. Losses are (n_units, n_columns), one column per lambda (or per draw), time along axis 0.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias

import numpy as np
from scipy import special

from conffusion.calibration.betting import (
    EXPECTED_DEVIATION,
    bet_range,
    log_capital,
    star_passes,
    star_ucb,
    wsr_bets,
    wsr_ucb,
)
from conffusion.calibration.ucb import (
    bentkus_root,
    bentkus_ucb,
    conformal_risk_control_ucb,
    hoeffding_bentkus_ucb,
    hoeffding_ucb,
    official_ucb,
    relative_entropy,
    round_down,
    round_up,
)
from conffusion.calibration.variance import (
    Margin,
    clt_margin,
    empirical_bernstein_margin,
    largest_variance,
    sample_variance,
)
from conffusion.core.arrays import BoolArray, FloatArray
from conffusion.core.choices import BoundName
from conffusion.errors import ConfigError

Strength: TypeAlias = Literal["finite_sample", "asymptotic", "mean_only", "none"]
Tail = Callable[[FloatArray, int | FloatArray, float], FloatArray]


@dataclass(frozen=True)
class Level:
    """Risk at most `alpha`, except with probability `delta`; `n` is the number given to the bound."""

    alpha: float
    delta: float
    n: int


class RiskBound(Protocol):
    """One upper confidence bound, as a test."""

    @property
    def strength(self) -> Strength:
        """What holds for independent, identically distributed losses of units, if lambda_hat is chosen by this bound.

        "finite_sample": the true risk exceeds alpha with probability at most delta, whatever the number of units.
        "asymptotic": the same in the limit of many units only.
        "mean_only": the true risk is at most alpha on average over calibration sets; delta plays no part.
        "none": nothing.
        """

    def value(self, losses: FloatArray, level: Level) -> float:
        """Upper confidence bound of one column of losses (n_units,)."""

    def passes(self, losses: FloatArray, level: Level) -> BoolArray:
        """Whether the bound of each column of (n_units, n_columns) is at most alpha."""

    def certifies(self, largest: FloatArray, smallest: FloatArray, level: Level) -> BoolArray:
        """Whether all losses L with smallest <= L <= largest, elementwise, pass."""

    def would_pass(self, losses: FloatArray, level: Level) -> bool:
        """Whether `level.n` units with losses like the given ones (n_units,) would pass."""


@dataclass(frozen=True)
class MeanBound:
    """A bound that depends on the mean loss only and never falls when the mean rises.

    Attributes:
        ucb: (mean, n, delta) -> bound.
        tail: (means, n, alpha) -> bound on the probability of a mean this small if the true mean were alpha;
            the bound is at most alpha exactly where the tail is at most delta.
        strength: As in `RiskBound`.
    """

    ucb: Callable[[float, int, float], float]
    tail: Tail
    strength: Strength

    def value(self, losses: FloatArray, level: Level) -> float:
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
class WsrBound:
    """The Waudby-Smith-Ramdas bound, which depends on every loss and on their order."""

    strength: Strength = "finite_sample"

    def value(self, losses: FloatArray, level: Level) -> float:
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
        low_bets, high_bets = bet_range(largest, smallest, level.delta)
        bets = np.where(largest > level.alpha, high_bets, low_bets)
        return np.asarray(log_capital(largest, bets, level.alpha).max(axis=0) >= -math.log(level.delta))

    def would_pass(self, losses: FloatArray, level: Level) -> bool:
        """Whether the losses, repeated in their order until there are `level.n`, would pass."""
        return bool(self.passes(np.resize(losses, level.n)[:, None], level)[0])


@dataclass(frozen=True)
class StarBound:
    """The bound of `star_ucb`, which depends on every loss and on their order, and never falls when a loss rises."""

    strength: Strength = "finite_sample"

    def value(self, losses: FloatArray, level: Level) -> float:
        """Upper confidence bound of one column of losses (n_units,)."""
        return star_ucb(losses, level.delta)

    def passes(self, losses: FloatArray, level: Level) -> BoolArray:
        """Whether the capital at level alpha ever reaches 1 / delta."""
        return star_passes(losses, level.alpha, level.delta, EXPECTED_DEVIATION)

    def certifies(self, largest: FloatArray, smallest: FloatArray, level: Level) -> BoolArray:
        """Whether all losses in between pass: as the bound is monotone, whether the largest do."""
        return self.passes(largest, level)

    def would_pass(self, losses: FloatArray, level: Level) -> bool:
        """Whether the losses, repeated in their order until there are `level.n`, would pass."""
        return bool(self.passes(np.resize(losses, level.n)[:, None], level)[0])


@dataclass(frozen=True)
class VarianceBound:
    """The mean loss plus a margin that never falls when the sample variance rises.

    Attributes:
        margin: (sample variances, n, delta) -> what is added to the means.
        strength: As in `RiskBound`.
    """

    margin: Margin
    strength: Strength

    def value(self, losses: FloatArray, level: Level) -> float:
        """Upper confidence bound of one column of losses (n_units,)."""
        return min(1.0, float(self._sum(losses.mean(), sample_variance(losses), level)))

    def passes(self, losses: FloatArray, level: Level) -> BoolArray:
        """Whether the bound of each column of (n_units, n_columns) is at most alpha."""
        return np.asarray(self._sum(losses.mean(axis=0), sample_variance(losses), level) <= level.alpha)

    def certifies(self, largest: FloatArray, smallest: FloatArray, level: Level) -> BoolArray:
        """Whether the largest mean and the largest sample variance of all losses in between would pass together.

        Smaller losses can spread more and so raise the bound: passing at both ends proves nothing about the middle.
        """
        return np.asarray(self._sum(largest.mean(axis=0), largest_variance(largest, smallest), level) <= level.alpha)

    def would_pass(self, losses: FloatArray, level: Level) -> bool:
        """Whether `level.n` units with the mean and the sample variance of the losses would pass."""
        return bool(self.passes(losses[:, None], level)[0])

    def _sum(self, means: FloatArray, variances: FloatArray, level: Level) -> FloatArray:
        return np.asarray(means + self.margin(variances, level.n, level.delta))


def _hoeffding_tail(means: FloatArray, n: int | FloatArray, alpha: float) -> FloatArray:
    return np.where(means <= alpha, np.exp(-2.0 * n * (alpha - means) ** 2), 1.0)


def _bentkus_tail(means: FloatArray, n: int | FloatArray, alpha: float) -> FloatArray:
    return np.where(means <= alpha, _binomial_tail(round_up(n * means), n, alpha), 1.0)


def _hoeffding_bentkus_tail(means: FloatArray, n: int | FloatArray, alpha: float) -> FloatArray:
    entropy = np.exp(-n * relative_entropy(np.minimum(means, alpha), alpha))
    return np.where(means <= alpha, np.minimum(entropy, _bentkus_tail(means, n, alpha)), 1.0)


def _official_tail(means: FloatArray, n: int | FloatArray, alpha: float) -> FloatArray:
    """As official_ucb, but a mean of 0 is judged by the formula, and a mean at or above alpha never passes."""
    return np.where(means < alpha, _binomial_tail(round_down(n * means), n, alpha), 1.0)


def _binomial_tail(counts: FloatArray, n: int | FloatArray, alpha: float) -> FloatArray:
    """e P(Bin(n, alpha) <= counts)."""
    below = np.minimum(counts, np.asarray(n) - 1.0)
    return np.where(counts < n, math.e * special.betaincc(below + 1.0, n - below, alpha), math.e)


def _conformal_risk_control_tail(means: FloatArray, n: int | FloatArray, alpha: float) -> FloatArray:
    """No probability: 0, below every delta, where it passes (rounding errors forgiven), else 1."""
    return np.where(n * means + 1.0 <= alpha * (np.asarray(n) + 1.0) * (1.0 + 1e-12), 0.0, 1.0)


def _official_ucb_below_one(mean: float, n: int, delta: float) -> float:
    return bentkus_root(0.0, n, delta) if mean == 0.0 else official_ucb(mean, n, delta)


def _conformal_risk_control_without_delta(mean: float, n: int, delta: float) -> float:
    return conformal_risk_control_ucb(mean, n)


BOUNDS: Mapping[BoundName, RiskBound] = MappingProxyType(
    {
        "wsr": WsrBound(),
        "star": StarBound(),
        "hoeffding_bentkus": MeanBound(hoeffding_bentkus_ucb, _hoeffding_bentkus_tail, "finite_sample"),
        "bentkus": MeanBound(bentkus_ucb, _bentkus_tail, "finite_sample"),
        "hoeffding": MeanBound(hoeffding_ucb, _hoeffding_tail, "finite_sample"),
        "empirical_bernstein": VarianceBound(empirical_bernstein_margin, "finite_sample"),
        "clt": VarianceBound(clt_margin, "asymptotic"),
        "conformal_risk_control": MeanBound(
            _conformal_risk_control_without_delta, _conformal_risk_control_tail, "mean_only"
        ),
        "official": MeanBound(_official_ucb_below_one, _official_tail, "none"),
    }
)


def get_bound(name: str) -> RiskBound:
    """The bound called `name`.

    Raises:
        ConfigError: If there is none.
    """
    for known, bound in BOUNDS.items():
        if known == name:
            return bound
    raise ConfigError(f"ucb = {name!r}: must be one of {', '.join(BOUNDS)}")


def finite_sample_bound(ucb: str) -> RiskBound:
    """The bound called `ucb`, which must hold for any number of units.

    Raises:
        ConfigError: If there is none, or it has no finite-sample guarantee.
    """
    bound = get_bound(ucb)
    if bound.strength != "finite_sample":
        names = ", ".join(name for name, known in BOUNDS.items() if known.strength == "finite_sample")
        raise ConfigError(f"ucb = {ucb!r}: must hold for any number of units, so choose one of {names}")
    return bound
