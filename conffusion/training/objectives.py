"""Losses of the trained methods, on bounds in [-1, 1], averaged over the evaluated pixels."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from conffusion.losses import pinball_loss
from conffusion.methods.predictor import Bounds

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
