"""Set families: how a scale lambda moves the bounds, and from which lambda on a pixel is covered.

Each family is one `Scaling` in `SCALINGS`. Coverage means apply(lower)[0] <= target <= apply(upper)[1] in float64
arithmetic, before clamping; for targets in [0, 1] it can only be gained, never lost, when lambda grows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import ArrayLike, FloatArray, as_numpy, check_same_shape
from conffusion.core.choices import ScalingName
from conffusion.errors import ConfigError

_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # stands in for 0 where lambda is divided by, in either precision


@dataclass(frozen=True)
class Scaling:
    """One set family.

    Attributes:
        name: Key in `SCALINGS`.
        apply: (lower, upper, lambda) -> (lower, upper), unclamped; arithmetic only, so NumPy and torch both do.
        solve: (lower, upper, target) -> critical lambda up to rounding; inf where no lambda covers.
    """

    name: str
    apply: Callable[[Any, Any, Any], tuple[Any, Any]]
    solve: Callable[[FloatArray, FloatArray, FloatArray], FloatArray]

    def critical(self, lower: FloatArray, upper: FloatArray, target: FloatArray) -> FloatArray:
        """Smallest lambda at which `apply` covers the target, for float64 arrays of one shape.

        The solution of `solve` is raised by the last few bits where rounding would leave its own pixel uncovered.

        Returns:
            float64, same shape; inf where no lambda covers.
        """
        low, high, truth = (array.reshape(-1) for array in (lower, upper, target))
        with np.errstate(all="ignore"):
            critical = self.solve(low, high, truth)
            short, step = self._uncovered(low, high, truth, critical), 1.0
            while short.size:
                critical[short] += step * np.spacing(np.abs(critical[short]))
                short = short[self._uncovered(low[short], high[short], truth[short], critical[short])]
                step *= 2
        return critical.reshape(target.shape)

    def _uncovered(
        self, lower: FloatArray, upper: FloatArray, target: FloatArray, scale: FloatArray
    ) -> npt.NDArray[np.intp]:
        """Positions whose own finite lambda `scale` does not cover them."""
        low, high = self.apply(lower, upper, scale)
        return np.flatnonzero(~((low <= target) & (target <= high)) & (scale < np.inf))


def _apply_multiplicative(lower: Any, upper: Any, scale: Any) -> tuple[Any, Any]:
    return lower / (scale + _SMALLEST_SCALE), upper * scale


def _solve_multiplicative(lower: FloatArray, upper: FloatArray, target: FloatArray) -> FloatArray:
    """max(l / y, y / u), where l <= 0 and y = 0 <= u ask for nothing; y < 0, or u <= 0 < y, is never covered."""
    low = np.where(lower > 0, lower / target, 0.0)
    high = np.where(target > 0, target / upper, 0.0)
    never = (target < 0) | (upper < 0) | ((upper == 0) & (target > 0))
    return np.where(never, np.inf, np.maximum(low, high))


def _apply_additive(lower: Any, upper: Any, scale: Any) -> tuple[Any, Any]:
    return lower - scale, upper + scale


def _solve_additive(lower: FloatArray, upper: FloatArray, target: FloatArray) -> FloatArray:
    """max(l - y, y - u); negative where the target lies inside with room to spare."""
    return np.maximum(lower - target, target - upper)


def _apply_interval(lower: Any, upper: Any, scale: Any) -> tuple[Any, Any]:
    middle, reach = (lower + upper) / 2, (upper - lower) / 2 * scale
    return middle - reach, middle + reach


def _solve_interval(lower: FloatArray, upper: FloatArray, target: FloatArray) -> FloatArray:
    """|y - m| / (w / 2); width w = 0 covers only y = m, and a crossed pair (w < 0) is never covered."""
    distance, half_width = np.abs(target - (lower + upper) / 2), (upper - lower) / 2
    never = (half_width < 0) | ((half_width == 0) & (distance > 0))
    return np.where(never, np.inf, np.where(distance > 0, distance / half_width, 0.0))


SCALINGS: Mapping[str, Scaling] = MappingProxyType(
    {
        "multiplicative": Scaling("multiplicative", _apply_multiplicative, _solve_multiplicative),
        "additive": Scaling("additive", _apply_additive, _solve_additive),
        "interval": Scaling("interval", _apply_interval, _solve_interval),
    }
)


def get_scaling(name: str) -> Scaling:
    """The set family called `name`.

    Raises:
        ConfigError: If there is none.
    """
    if name not in SCALINGS:
        raise ConfigError(f"scaling = {name!r}: must be one of {', '.join(SCALINGS)}")
    return SCALINGS[name]


def critical_lambda(
    lower: ArrayLike, upper: ArrayLike, target: ArrayLike, scaling: ScalingName = "multiplicative"
) -> FloatArray:
    """Smallest lambda at which each pixel is covered by the scaled interval.

    Multiplicative [l / lambda, lambda u] (lambda > 0; a value of 0 means every lambda), additive
    [l - lambda, u + lambda] (any real lambda), interval [m - lambda w / 2, m + lambda w / 2] (lambda >= 0).

    Args:
        lower: Lower bounds, any shape; NumPy array, torch tensor or zarr array.
        upper: Upper bounds, same shape; may lie below `lower` (such a pixel is covered when both ends hold).
        target: Truth, same shape, in [0, 1].
        scaling: "multiplicative", "additive" or "interval".
    Returns:
        float64 array of the same shape. inf where no lambda covers (multiplicative: y = 0 < l, or u = 0 < y;
        interval: u < l, or u = l != y). NaN where an input is NaN.
    Raises:
        ShapeError: If the shapes differ.
        ConfigError: If the scaling is unknown.
    """
    check_same_shape(lower=lower, upper=upper, target=target)
    low, high, truth = (as_numpy(array).astype(np.float64) for array in (lower, upper, target))
    critical = get_scaling(scaling).critical(low, high, truth)
    critical[np.isnan(low) | np.isnan(high) | np.isnan(truth)] = np.nan
    return critical
