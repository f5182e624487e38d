"""Losses of the trained methods, on bounds in [-1, 1], averaged over the evaluated pixels."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from conffusion.core.arrays import to_01
from conffusion.losses import pinball_loss, sharpness_loss
from conffusion.methods.predictor import Bounds
from conffusion.training.parallel import ALONE, Processes

_PRICE_GAIN = 0.09  # how fast the price of a miss follows the risk
_MAX_EXCESS = 1.0  # of the risk over the level, in units of the level, that moves the price; it moves down by 1 at most
_FIRST_PRICE = 0.3  # in units of the mean width at the start, over the level
_MAX_CHANGE = 20.0  # largest factor between the price and the first one, so that it does not run away from slow bounds

# (bounds at the evaluated pixels, lower target, upper target, lower quantile) -> scalar
Objective = Callable[[Bounds, Tensor, Tensor, float], Tensor]


def pinball(bounds: Bounds, lower: Tensor, upper: Tensor, quantile: float) -> Tensor:
    """Quantile regression of both bounds (Horwitz and Hoshen 2022, eq. 5 and 6): N- and G-Conffusion."""
    return pinball_loss(bounds.lower, lower, quantile) + pinball_loss(bounds.upper, upper, 1 - quantile)


def pinball_and_squared_error(bounds: Bounds, lower: Tensor, upper: Tensor, quantile: float) -> Tensor:
    """Quantile regression and a point estimate, weights 1 (Angelopoulos et al. 2022, im2im-uq): ADM_UQ."""
    return pinball(bounds, lower, upper, quantile) + torch.mean((bounds.point - lower) ** 2)


def squared_error(bounds: Bounds, lower: Tensor, upper: Tensor, quantile: float) -> Tensor:
    """Regression of each bound on its own target: DM_SBA on the bounds of DM_SB."""
    return torch.mean((bounds.lower - lower) ** 2) + torch.mean((bounds.upper - upper) ** 2)


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "pinball": pinball,
        "pinball_and_squared_error": pinball_and_squared_error,
        "squared_error": squared_error,
    }
)


class Sharpening:
    """Mean width + price x smoothed misses of the truth, with the price that holds the risk near a level.

    An `Objective` with a memory: it notes the risk of what it is shown, and `update_price` follows it. What is
    shown twice, because memory did not suffice the first time, counts twice in that step's risk.

    Args:
        level: Wanted share of missed values, in (0, 1).
        processes: Who shows it parts of the same batches; the price is the same in all of them.
    """

    def __init__(self, level: float, processes: Processes = ALONE) -> None:
        self._level, self._processes = level, processes
        self._shown: list[tuple[int, Tensor]] = []
        self._first_price, self._log_change = math.nan, 0.0

    @property
    def price(self) -> float:
        """What a miss costs in the next step, in units of width on [0, 1]; NaN before the first batch."""
        return self._first_price * math.exp(self._log_change)

    def __call__(self, bounds: Bounds, lower: Tensor, upper: Tensor, quantile: float) -> Tensor:
        """`sharpness_loss` on [0, 1]; `lower` and `upper` are both the truth, and `quantile` is not used."""
        low, high, truth = to_01(bounds.lower), to_01(bounds.upper), to_01(lower)
        if math.isnan(self._first_price):
            width = self._mean_width((high - low).detach().abs())
            self._first_price = _FIRST_PRICE * max(width, 1 / 255) / self._level
        missed = (truth > torch.maximum(low, high)) | (truth < torch.minimum(low, high))
        self._shown.append((missed.numel(), missed.float().mean()))
        return sharpness_loss(low, high, truth, price=self.price)

    def update_price(self) -> None:
        """End a step: raise the price if more than the level was missed since the last one, and lower it if less."""
        n_missed = sum(n * float(share) for n, share in self._shown)
        n_missed, n_values = self._processes.total(n_missed, sum(n for n, _ in self._shown))
        risk = n_missed / n_values
        self._shown.clear()
        change = self._log_change + _PRICE_GAIN * min((risk - self._level) / self._level, _MAX_EXCESS)
        self._log_change = min(max(change, -math.log(_MAX_CHANGE)), math.log(_MAX_CHANGE))

    def _mean_width(self, widths: Tensor) -> float:
        """Over the parts of all processes, or of the first part of a batch that one process takes in parts."""
        mean = float(widths.mean())
        if self._processes.n == 1:
            return mean
        total, n_values = self._processes.total(mean * widths.numel(), widths.numel())
        return total / n_values

    def state(self) -> dict[str, float]:
        """What a resumed run needs between two steps."""
        return {"first_price": self._first_price, "log_change": self._log_change}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave."""
        self._first_price, self._log_change = state["first_price"], state["log_change"]
