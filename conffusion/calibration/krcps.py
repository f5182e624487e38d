"""Offsets of groups of pixels: a shape of the intervals that is fitted on the selection split, before calibration.

Pixels are grouped by position, through their miss rates, and each group's bounds are moved outwards by an offset of its
own. `calibrate` then scales the moved bounds as usual, on images that the fit has not seen; its promise does not depend
on how good the fit is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np

from conffusion.calibration.scaling import get_scaling
from conffusion.calibration.ucb import check_level
from conffusion.core.arrays import ArrayLike, BoolArray, FloatArray, IntArray, as_numpy, check_same_shape
from conffusion.errors import CalibrationError, ConfigError, DataError, ShapeError

Mode: TypeAlias = Literal["convex", "direct"]
GAMMAS: tuple[float, ...] = tuple(np.linspace(0.3, 0.7, 16).tolist())
_MAX_TERMS = 1 << 14  # pixel values of a group that enter the convex problem
_NARROWEST = 1e-3  # width below which the convex loss goes on as a straight line, so that it stays finite
_PRECISION = 1e-8  # of the relaxed risk; the linear programmes are kept ten times as precisely
_MAX_CUTS = 60
_MAX_HALVINGS = 200


@dataclass(frozen=True, eq=False)
class PixelGroups:
    """Groups of pixel positions and the offset of each.

    Attributes:
        label: (C, H, W) group of each position, 0 to K - 1; -1 where no pixel was evaluated, which is never moved.
        offsets: (K,) float64, in units of the [0, 1] pixel range; positive widens, negative narrows.
    """

    label: IntArray
    offsets: FloatArray

    def apply(self, lower: ArrayLike, upper: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Move the bounds of each pixel by the offset of its group: [l - offset, u + offset], clamped to [0, 1].

        Bounds that would cross meet at their midpoint.

        Args:
            lower: (N, C, H, W) lower bounds in [0, 1]; NumPy array, torch tensor or zarr array (read whole).
            upper: Upper bounds, same shape.
        Returns:
            (lower, upper), float64 NumPy arrays. A target in [0, 1] at its critical offset is covered exactly.
        Raises:
            ShapeError: If the shapes differ, or differ from that of `label`.
        """
        shape = check_same_shape(lower=lower, upper=upper)
        if shape[1:] != self.label.shape:
            raise ShapeError(f"lower has shape {shape} but the groups are for images of shape {self.label.shape}")
        low, high = (as_numpy(array).astype(np.float64) for array in (lower, upper))
        shift = np.append(self.offsets, 0.0)[self.label]
        moved_low, moved_high = get_scaling("additive").apply(low, high, shift)
        crossed, middle = moved_high < moved_low, (low + high) / 2
        return np.where(crossed, middle, moved_low).clip(0.0, 1.0), np.where(crossed, middle, moved_high).clip(0.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"label": self.label.tolist(), "offsets": self.offsets.tolist()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "PixelGroups":
        """Inverse of `to_dict`."""
        return cls(np.asarray(record["label"], dtype=np.int64), np.asarray(record["offsets"], dtype=np.float64))


def fit_pixel_groups(
    lower: ArrayLike,
    upper: ArrayLike,
    target: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    n_groups: int,
    level: float,
    mode: Mode = "direct",
) -> PixelGroups:
    """Group pixel positions by miss rate and choose offsets of small mean interval length at a given risk.

    The risk is pooled: the share of all evaluated pixel values that are missed. "convex" solves the relaxation of
    K-RCPS (`ConvexProblem`) for each gamma of `GAMMAS`, on up to 16384 values of each group spread evenly, and keeps
    the shortest; its offsets lie in [0, 0.5], and the risk it leaves is well below `level`. "direct" minimises the
    exact length of the clamped intervals, length + price * misses for each group, with the price at which the risk just
    keeps `level`; its offsets may be negative. Where one group is much harder than the others the shortest intervals
    give that group up: the risk is kept over all groups together, not in each.

    Args:
        lower: (N, C, H, W) lower bounds in [0, 1] of the selection split; NumPy array, torch tensor or zarr array
            (read whole).
        upper: Upper bounds, same shape.
        target: Truth, same shape; targets outside [0, 1] count as missed at every offset.
        mask: Same shape, or (N, 1, H, W); pixels where it is 1 are evaluated. None evaluates all.
        n_groups: Number of groups K, at least 1; there are fewer where miss rates tie.
        level: Risk to be kept on the given data, in (0, 1).
        mode: "convex" or "direct".
    Returns:
        Groups and offsets. Positions without an evaluated pixel (around the holes of inpainting) get label -1.
    Raises:
        ConfigError: If n_groups, level or mode is invalid.
        ShapeError: If shapes do not match.
        DataError: If no pixel is evaluated, or an evaluated value is NaN or infinite.
        CalibrationError: If no offsets keep the level.
    Source:
        Teneggi et al. 2023, "How to trust your diffusion model: a convex optimization approach to conformal risk
        control" (arXiv 2302.03791), section 4 and equation (P_K); "direct" solves the problem it relaxes.
    """
    check_level("level", level)
    if n_groups < 1:
        raise ConfigError(f"n_groups = {n_groups}: must be at least 1")
    if mode not in _FITS:
        raise ConfigError(f"mode = {mode!r}: must be one of {', '.join(_FITS)}")
    arrays, chosen = _open(lower, upper, target, mask)
    label = _label_positions(arrays, chosen, n_groups)
    groups = [_values_of_group(arrays, chosen, label == k) for k in range(int(label.max()) + 1)]
    return PixelGroups(label, _FITS[mode](groups, level))


def quantile_groups(miss_rate: FloatArray, n_groups: int) -> IntArray:
    """Group of each value by the quantiles 1/K, .., (K-1)/K of all; a value equal to a quantile goes below it.

    Args:
        miss_rate: Any shape; NaN marks positions to leave out.
        n_groups: K, at least 1; equal quantiles count once, so that there may be fewer groups.
    Returns:
        int64, same shape: 0 (smallest rates) to at most K - 1, every group in use; -1 at NaN.
    Source:
        Teneggi et al. 2023 (arXiv 2302.03791), section 4; fixture stats/krcps_procedures.
    """
    known = ~np.isnan(miss_rate)
    edges = np.quantile(miss_rate[known], np.arange(1, n_groups) / n_groups)
    label = np.full(miss_rate.shape, -1, dtype=np.int64)
    bins = np.searchsorted(np.unique(edges), miss_rate[known], side="left")
    label[known] = np.unique(bins, return_inverse=True)[1].reshape(-1)
    return label


@dataclass(frozen=True)
class ConvexProblem:
    """The convex problem of K-RCPS for groups of pixel values, at one gamma and q = gamma / (1 - gamma).

    Minimise sum_k s_k lambda_k over 0 <= lambda_k <= largest, subject to sum_k s_k mean_j f(w_j + 2 lambda_k) <= level,
    where f(I) = max(0, 2 (1 + q) d_j / I - q) is at least 1 wherever an interval of width I misses a target at
    distance d_j from its centre.

    Attributes:
        widths: For each of K groups, any number of interval widths w_j before the offset.
        distances: For each group, the distances d_j >= 0 of targets from centres.
        shares: (K,) weight s_k of each group.
        level: Bound on the relaxed risk.
        largest: Upper end of every offset.

    Source:
        Teneggi et al. 2023 (arXiv 2302.03791), the loss l^gamma and problem (P_K); fixture stats/krcps_procedures.
    """

    widths: Sequence[FloatArray]
    distances: Sequence[FloatArray]
    shares: FloatArray
    level: float
    largest: float = 0.5

    def solve(self, gamma: float) -> FloatArray | None:
        """Optimal (K,) offsets at one gamma in (0, 1), None if no offsets keep the level.

        Each group's loss is convex in its one offset, so tangents bound it from below: a linear programme over the
        tangents is solved, tangents are added at its solution, until the solution keeps the level itself.
        """
        cuts = [self._tangents(np.full(len(self.shares), at), gamma) for at in np.linspace(0, self.largest, 9)]
        for _ in range(_MAX_CUTS):
            offsets = self._solve_cuts(cuts)
            if offsets is None:
                return None
            cuts.append(self._tangents(offsets, gamma))
            if float(self.shares @ cuts[-1].values) <= self.level + _PRECISION:
                break
        return offsets

    def best(self, gammas: Sequence[float] = GAMMAS) -> FloatArray:
        """Offsets (K,) of the gamma with the smallest objective.

        Raises:
            CalibrationError: If no gamma has a solution.
        """
        solutions = [offsets for offsets in map(self.solve, gammas) if offsets is not None]
        if not solutions:
            raise CalibrationError(
                f"the convex problem has no solution: with every offset at {self.largest:g} the relaxed risk exceeds"
                f" level = {self.level:g}; raise the level or choose mode 'direct'"
            )
        return min(solutions, key=lambda offsets: float(self.shares @ offsets))

    def _tangents(self, offsets: FloatArray, gamma: float) -> "_Tangents":
        """Mean loss of each group at its offset, and its slope there."""
        terms = zip(self.widths, self.distances, offsets, strict=True)
        means = np.array([_relaxed_loss(width + 2 * offset, distance, gamma) for width, distance, offset in terms])
        return _Tangents(offsets, means[:, 0], means[:, 1])

    def _solve_cuts(self, cuts: "Sequence[_Tangents]") -> FloatArray | None:
        """Solution of the linear programme in (offsets, mean losses) whose losses lie above all tangents."""
        from scipy import optimize  # here because the import takes long

        n_groups = len(self.shares)
        rows = [np.hstack([np.diag(cut.slopes), -np.eye(n_groups)]) for cut in cuts]
        limits = [cut.slopes * cut.at - cut.values for cut in cuts]
        solution = optimize.linprog(
            np.concatenate([self.shares, np.zeros(n_groups)]),
            A_ub=np.vstack([*rows, np.concatenate([np.zeros(n_groups), self.shares])]),
            b_ub=np.concatenate([*limits, [self.level]]),
            bounds=[(0.0, self.largest)] * n_groups + [(0.0, None)] * n_groups,
            options={"primal_feasibility_tolerance": _PRECISION / 10, "dual_feasibility_tolerance": _PRECISION / 10},
        )
        return np.asarray(solution.x[:n_groups]) if solution.status == 0 else None


@dataclass(frozen=True)
class _Tangents:
    """One tangent per group: loss values and slopes at offsets `at`, (K,) each."""

    at: FloatArray
    values: FloatArray
    slopes: FloatArray


def _relaxed_loss(widths: FloatArray, distances: FloatArray, gamma: float) -> tuple[float, float]:
    """Mean of max(0, 2 (1 + q) d / I - q) and its derivative by the offset, which adds twice itself to I."""
    q = gamma / (1 - gamma)
    safe = np.maximum(widths, _NARROWEST)
    values = 2 * (1 + q) * distances * (2 * safe - widths) / safe**2 - q
    slopes = np.where(values > 0, -4 * (1 + q) * distances / safe**2, 0.0)
    return float(np.maximum(values, 0.0).mean()), float(slopes.mean())


@dataclass(frozen=True)
class _Values:
    """Evaluated values of one group: bounds, truth and critical additive offset, (n_values,) float64 each."""

    lower: FloatArray
    upper: FloatArray
    target: FloatArray
    critical: FloatArray


@dataclass(frozen=True)
class _Curve:
    """Choices of one group: increasing offsets, the total length of its intervals and how many values are missed."""

    offsets: FloatArray
    lengths: FloatArray
    missed: IntArray

    @classmethod
    def of(cls, values: _Values) -> "_Curve":
        """One choice per value of the critical offset, and one at which every interval has shrunk to a point."""
        shrunk = (values.lower - values.upper) / 2
        critical = np.sort(values.critical)
        finite = critical[critical < np.inf]
        offsets = np.unique(np.append(finite, shrunk.min()))
        hinges = [_hinge_sum(knots, offsets) for knots in (shrunk, 1.0 - values.upper, values.lower)]
        missed = len(critical) - np.searchsorted(critical, offsets, side="right")
        return cls(offsets, 2 * hinges[0] - hinges[1] - hinges[2], missed)

    def best(self, price: float, first: int, last: int) -> int:
        """Index in first..last of the smallest length + price * missed; the smaller offset where two are equal."""
        part = slice(first, last + 1)
        return first + int(np.argmin(self.lengths[part] + price * self.missed[part]))


def _hinge_sum(knots: FloatArray, points: FloatArray) -> FloatArray:
    """sum_j max(0, point - knot_j) for every one of the increasing points."""
    ordered = np.sort(knots)
    below = np.searchsorted(ordered, points, side="right")
    return np.asarray(points * below - np.concatenate([[0.0], np.cumsum(ordered)])[below])


def _fit_direct(groups: Sequence[_Values], level: float) -> FloatArray:
    """Offsets (K,) of the shortest intervals with at most level * n_values misses, by a price on each miss."""
    budget = math.floor(level * sum(len(group.critical) for group in groups) + 1e-9)
    curves = [_Curve.of(group) for group in groups]
    dear = np.array([len(curve.offsets) - 1 for curve in curves])
    if _count_missed(curves, dear) > budget:
        raise CalibrationError(
            f"no offsets keep level = {level:g}: too many targets lie outside [0, 1]; mend them or raise the level"
        )
    cheap, dear = _bracket_price(curves, budget, dear)
    chosen = _spend_rest(curves, budget, cheap, dear)
    return np.array([curve.offsets[index] for curve, index in zip(curves, chosen, strict=True)])


def _bracket_price(curves: Sequence[_Curve], budget: int, dear: IntArray) -> tuple[IntArray, IntArray]:
    """(K,) best choices just below and just above the price of a miss at which the budget is kept.

    Best choices move up with the price, so every halving searches only between those of the two prices.
    """
    cheap = np.zeros(len(curves), dtype=np.int64)
    low, high = 1e-9, 2.0 * sum(len(curve.offsets) + curve.missed.max() for curve in curves)
    for _ in range(_MAX_HALVINGS):
        price = math.sqrt(low * high)
        if np.array_equal(cheap, dear) or not low < price < high:
            break
        ranges = zip(curves, cheap, dear, strict=True)
        middle = np.array([curve.best(price, int(first), int(last)) for curve, first, last in ranges])
        if _count_missed(curves, middle) <= budget:
            dear, high = middle, price
        else:
            cheap, low = middle, price
    return cheap, dear


def _spend_rest(curves: Sequence[_Curve], budget: int, cheap: IntArray, dear: IntArray) -> IntArray:
    """Choices between `cheap`, which miss too much, and `dear`, that leave few of the allowed misses unused."""
    chosen = dear.copy()
    for k, curve in enumerate(curves):
        allowed = budget - _count_missed(curves, chosen) + curve.missed[chosen[k]]
        fewest_first = curve.missed[cheap[k] : dear[k] + 1][::-1]
        chosen[k] = dear[k] + 1 - int(np.searchsorted(fewest_first, allowed, side="right"))
    return chosen


def _count_missed(curves: Sequence[_Curve], choices: IntArray) -> int:
    return sum(int(curve.missed[index]) for curve, index in zip(curves, choices, strict=True))


def _fit_convex(groups: Sequence[_Values], level: float) -> FloatArray:
    """Offsets (K,) by the relaxation of K-RCPS."""
    counts = np.array([len(group.critical) for group in groups])
    parts = [slice(None, None, -(-count // _MAX_TERMS) | 1) for count in counts]  # odd, so that no column is favoured
    terms = list(zip(groups, parts, strict=True))
    widths = [(group.upper - group.lower)[part] for group, part in terms]
    distances = [np.abs(group.target - (group.lower + group.upper) / 2)[part] for group, part in terms]
    return ConvexProblem(widths, distances, counts / counts.sum(), level).best()


_FITS: Mapping[str, Callable[[Sequence[_Values], float], FloatArray]] = MappingProxyType(
    {"convex": _fit_convex, "direct": _fit_direct}
)


def _open(lower: ArrayLike, upper: ArrayLike, target: ArrayLike, mask: ArrayLike | None) -> tuple[_Values, BoolArray]:
    """Bounds, truth and critical offsets as (N, C, H, W), and which pixels are evaluated."""
    shape = check_same_shape(lower=lower, upper=upper, target=target)
    if len(shape) != 4:
        raise ShapeError(f"target has shape {shape}: must be (N, C, H, W)")
    if mask is not None and tuple(mask.shape) not in (shape, (shape[0], 1, *shape[2:])):
        raise ShapeError(f"mask has shape {tuple(mask.shape)} but target has {shape}: they must be equal")
    chosen = np.ones(shape, dtype=bool) if mask is None else np.broadcast_to(as_numpy(mask) == 1, shape)
    if not chosen.any():
        raise DataError("no pixel is evaluated: the mask must be 1 somewhere")
    low, high, truth = (as_numpy(array).astype(np.float64) for array in (lower, upper, target))
    for name, array in (("lower", low), ("upper", high), ("target", truth)):
        if not np.isfinite(array[chosen]).all():
            raise DataError(f"{name} has evaluated values that are NaN or infinite: replace them or mask them out")
    critical = get_scaling("additive").critical(low, high, truth)
    critical[(truth < 0.0) | (truth > 1.0)] = np.inf  # sets are clamped to [0, 1]
    return _Values(low, high, truth, critical), chosen


def _label_positions(arrays: _Values, chosen: BoolArray, n_groups: int) -> IntArray:
    """(C, H, W) groups by the miss rate of the bounds as they are, at offset 0; -1 where nothing is evaluated."""
    n_evaluated = chosen.sum(axis=0)
    n_missed = ((arrays.critical > 0.0) & chosen).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return quantile_groups(n_missed / n_evaluated, n_groups)


def _values_of_group(arrays: _Values, chosen: BoolArray, positions: BoolArray) -> _Values:
    """Evaluated values at some (C, H, W) positions."""
    inside = chosen[:, positions]
    parts = (arrays.lower, arrays.upper, arrays.target, arrays.critical)
    lower, upper, target, critical = (part[:, positions][inside] for part in parts)
    return _Values(lower, upper, target, critical)
