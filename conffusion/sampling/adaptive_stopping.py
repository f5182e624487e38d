"""Adaptive stopping: variants of an image are drawn until its quantiles are estimated to a stated precision."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conffusion.bounds import sampled_quantiles


@dataclass(frozen=True)
class AdaptiveStopping:
    """Rule that ends the drawing of an image's variants.

    It looks at the variants of that image alone, so images stay exchangeable and the guarantee of calibrated bounds
    holds.

    Attributes:
        precision: Standard error of the two quantiles, root mean square over the evaluated pixels, in units of the
            [0, 1] pixel range, at which drawing ends.
        quantile: Lower quantile, alpha / 2; the upper one is 1 - quantile.
        round: Variants drawn between two looks, at least 2.
    """

    precision: float
    quantile: float
    round: int

    def should_stop(self, variants: npt.NDArray[Any], mask: npt.NDArray[np.uint8]) -> bool:
        """Whether (J, C, H, W) variants give the bounds where the (C, H, W) mask is 1 to the wanted precision."""
        return standard_error(variants, mask, self.quantile) <= self.precision


def standard_error(variants: npt.NDArray[Any], mask: npt.NDArray[np.uint8], quantile: float) -> float:
    """Standard error of the sampled bounds of one image, root mean square over bounds and evaluated pixels.

    The number of J draws below the true quantile q is binomial, so a rank is uncertain by s = sqrt(q (1 - q) / J), and
    the estimate by half the distance between the empirical quantiles at q - s and q + s (David and Nagaraja 2003,
    "Order statistics", section 7.1, as a 68 % interval).

    Args:
        variants: (J, C, H, W), uint8 in 0..255 or floats in [0, 1].
        mask: (C, H, W), 1 at evaluated pixels.
        quantile: Lower quantile; the upper one is 1 - quantile.
    Returns:
        In units of the [0, 1] pixel range.
    """
    spread = math.sqrt(quantile * (1 - quantile) / len(variants))
    levels = [level for q in (quantile, 1 - quantile) for level in (max(q - spread, 0.0), min(q + spread, 1.0))]
    low, low_end, high, high_end = sampled_quantiles(variants[:, mask == 1], levels)
    squares = np.concatenate([low_end - low, high_end - high]) ** 2
    scale = 255.0 if variants.dtype == np.uint8 else 1.0
    return 0.5 * math.sqrt(float(squares.mean())) / scale
