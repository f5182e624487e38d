"""Proper scores of sampled variants. No torch import."""

import numpy as np

from conffusion.core.arrays import ArrayLike, FloatArray, as_numpy
from conffusion.errors import ShapeError


def crps(variants: ArrayLike, target: ArrayLike) -> FloatArray:
    """Continuous ranked probability score of every pixel, in its fair form, whose mean does not depend on J.

    mean_j |x_j - y| - sum_{i<j} |x_i - x_j| / (J (J - 1)); smaller is better, and 0 the least possible mean.

    Args:
        variants: (J, ...) variants, J >= 2, in any unit.
        target: (...) truth, in the same unit.
    Returns:
        (...) float64, in that unit.
    Raises:
        ShapeError: If there are fewer than two variants, or shapes differ.
    Source:
        Ferro 2014, "Fair scores for ensemble forecasts", eq. 4.
    """
    values, truth = as_numpy(variants).astype(np.float64), as_numpy(target).astype(np.float64)
    n_variants = len(values)
    if n_variants < 2 or values.shape[1:] != truth.shape:
        raise ShapeError(f"variants {values.shape} and target {truth.shape}: must be (J >= 2, ...) and (...)")
    ordered = np.sort(values, axis=0)
    weights = 2 * np.arange(n_variants) - n_variants + 1  # sum over pairs of |x_i - x_j| is that of weights x sorted
    spread = np.tensordot(weights, ordered, axes=1) / (n_variants * (n_variants - 1))
    result: FloatArray = np.abs(values - truth).mean(axis=0) - spread
    return result
