"""Learn then test: scales that control a risk which may rise and fall with lambda."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from conffusion.calibration.risk_bounds import Level, finite_sample_bound
from conffusion.calibration.shortfall import missing
from conffusion.calibration.ucb import check_level, checked_losses
from conffusion.calibration.units import in_random_order
from conffusion.core.arrays import ArrayLike, BoolArray, FloatArray, as_numpy
from conffusion.core.choices import DEFAULT_ALPHA, DEFAULT_DELTA, ORDER_SEED, RECOMMENDED_BOUND, BoundName
from conffusion.errors import CalibrationError, ConfigError, DataError, ShapeError

Method: TypeAlias = Literal["fixed_sequence", "bonferroni"]


@dataclass(frozen=True, eq=False)
class LearnThenTest:
    """Scales that a multiple test has accepted.

    Attributes:
        lambda_hat: Smallest accepted scale.
        valid: (n_lambdas,) bool, whether each scale is accepted. The risk is controlled at all of them at once.
        risk: Mean loss at lambda_hat, in [0, 1].
        risk_ucb: Upper confidence bound of the risk at lambda_hat at the error level of its test, at most alpha.
        alpha: Risk level.
        delta: Probability that any accepted scale has a risk above alpha.
        n: Number of units.
        ucb: Name of the bound.
        method: "fixed_sequence" or "bonferroni".
    """

    lambda_hat: float
    valid: BoolArray
    risk: float
    risk_ucb: float
    alpha: float
    delta: float
    n: int
    ucb: BoundName
    method: Method


def learn_then_test(
    losses: ArrayLike,
    lambdas: ArrayLike,
    *,
    alpha: float = DEFAULT_ALPHA,
    delta: float = DEFAULT_DELTA,
    ucb: BoundName | None = None,
    method: Method = "fixed_sequence",
    order_seed: int | None = ORDER_SEED,
) -> LearnThenTest:
    """Accept scales whose risk is at most alpha, where the risk may rise and fall with lambda.

    For each lambda the hypothesis that its risk exceeds alpha is rejected where the bound passes. "bonferroni" tests
    each at delta / n_lambdas. "fixed_sequence" tests at delta itself, from the last lambda down, and stops at the first
    that fails; it is the stronger where the risk falls most of the way, and finds nothing if the last lambda fails.

    Args:
        losses: (n_units, n_lambdas), in [0, 1]; one independent row per image or group, in any order.
        lambdas: (n_lambdas,) finite, increasing; chosen without looking at the losses.
        alpha: Risk level, in (0, 1).
        delta: Probability that any accepted scale has a risk above alpha, in (0, 1).
        ucb: Bound that holds for any number of units (`RiskBound.strength`); None = the recommended one.
        method: "fixed_sequence" or "bonferroni".
        order_seed: As in `calibrate`.
    Returns:
        The accepted scales.
    Raises:
        ConfigError: If alpha, delta or a name is invalid, or the bound does not hold for any number of units.
        ShapeError: If losses is not a table, or has not one column for each lambda.
        DataError: If a loss is NaN or outside [0, 1], or the lambdas do not increase.
        CalibrationError: If no scale is accepted; names the number of units that would be needed.
    Source:
        Angelopoulos, Bates, Candès, Jordan and Lei 2021, "Learn then test: calibrating predictive algorithms to achieve
        risk control" (arXiv 2110.01052), Theorem 1, with Bonferroni and with fixed sequence testing.
    """
    check_level("alpha", alpha)
    check_level("delta", delta)
    if method not in ("fixed_sequence", "bonferroni"):
        raise ConfigError(f"method = {method!r}: must be 'fixed_sequence' or 'bonferroni'")
    name = ucb or RECOMMENDED_BOUND
    bound, (table, scales) = finite_sample_bound(name), _checked_table(losses, lambdas)
    table = table if order_seed is None else in_random_order(table, order_seed)
    level = Level(alpha, delta / len(scales) if method == "bonferroni" else delta, len(table))
    valid = bound.passes(table, level)
    if method == "fixed_sequence":
        valid = np.logical_and.accumulate(valid[::-1])[::-1]
    if not valid.any():
        best = -1 if method == "fixed_sequence" else int(table.mean(axis=0).argmin())
        why = missing(bound, table[:, best], level, "unit", f"at lambda = {scales[best]:g}")
        raise CalibrationError(f"{method} accepts no lambda: {why}")
    first = int(valid.argmax())
    column = table[:, first]
    risk, risk_ucb = float(column.mean()), bound.value(column, level)
    return LearnThenTest(float(scales[first]), valid, risk, risk_ucb, alpha, delta, len(table), name, method)


def _checked_table(losses: ArrayLike, lambdas: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Losses (n_units, n_lambdas) and lambdas (n_lambdas,) as float64."""
    table, scales = (as_numpy(values).astype(np.float64) for values in (losses, lambdas))
    if table.ndim != 2 or not table.size or scales.shape != table.shape[1:]:
        raise ShapeError(
            f"losses has shape {table.shape} and lambdas {scales.shape}: they must be (n_units, n_lambdas) and"
            " (n_lambdas,), none of them 0"
        )
    checked_losses(table.reshape(-1))
    if not (np.isfinite(scales).all() and (np.diff(scales) > 0).all()):
        raise DataError("lambdas must be finite and increase: sort them, and leave repetitions out")
    return table, scales
