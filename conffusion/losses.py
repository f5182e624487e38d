"""Training losses of the bound networks."""

import torch
from torch import Tensor

from conffusion.core.arrays import check_same_shape
from conffusion.errors import ConfigError

_GREY_LEVEL = 1 / 255


def pinball_loss(prediction: Tensor, target: Tensor, quantile: float) -> Tensor:
    """Mean pinball (quantile) loss, whose minimiser over predictions is the `quantile` quantile of the target.

    An under-estimate costs quantile * |error|, an over-estimate (1 - quantile) * |error|; a tie costs nothing and
    gives no gradient.

    Args:
        prediction: Any shape.
        target: Same shape.
        quantile: In (0, 1).
    Returns:
        Scalar tensor: the mean over all elements, in units of the inputs.
    Raises:
        ConfigError: If quantile is out of range.
        ShapeError: If the shapes differ.
    Source:
        Koenker and Bassett 1978; Horwitz and Hoshen 2022 (arXiv 2211.09795), section 3; fixture stats/pinball.
    """
    if not 0.0 < quantile < 1.0:
        raise ConfigError(f"quantile = {quantile}: must lie in (0, 1)")
    check_same_shape(prediction=prediction, target=target)
    error = prediction - target
    return (torch.relu(error) * (1.0 - quantile) + torch.relu(-error) * quantile).mean()


def sharpness_loss(lower: Tensor, upper: Tensor, target: Tensor, *, price: float, softness: float = 0.1) -> Tensor:
    """Mean width + price x smoothed share of misses, least at the narrowest bounds of their risk (but for smoothing).

    A target y counts as sigmoid((y - upper) / s) + sigmoid((lower - y) / s) misses, with s = softness x half the width
    + 1/255, which passes on no gradient. Crossed bounds are sorted first. Far misses hardly pull, so the bounds should
    be about right beforehand.

    Args:
        lower: Any shape, in [0, 1], clamped already.
        upper: Same shape and range.
        target: Same shape and range.
        price: What a miss costs, in units of width, above 0.
        softness: Over what share of half the width a miss is smoothed, at least 0.
    Returns:
        Scalar tensor: the mean over all elements, in units of the inputs.
    Raises:
        ConfigError: If price or softness is out of range.
        ShapeError: If the shapes differ.
    Source:
        Width plus a smoothed, priced share of misses: Pearce et al. 2018 (arXiv 1802.07167), section 3.
    """
    if not price > 0:
        raise ConfigError(f"price = {price}: must be above 0")
    if not softness >= 0:
        raise ConfigError(f"softness = {softness}: must be at least 0")
    check_same_shape(lower=lower, upper=upper, target=target)
    low, high = torch.minimum(lower, upper), torch.maximum(lower, upper)
    width = high - low
    scale = softness * width.detach() / 2 + _GREY_LEVEL
    misses = torch.sigmoid((target - high) / scale) + torch.sigmoid((low - target) / scale)
    return width.mean() + price * misses.mean()
