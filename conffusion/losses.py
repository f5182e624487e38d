"""Training losses of the bound networks."""

import torch

from conffusion.arrays import check_same_shape
from conffusion.errors import ConfigError


def pinball_loss(prediction: torch.Tensor, target: torch.Tensor, quantile: float) -> torch.Tensor:
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
