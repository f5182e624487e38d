"""The convex relaxation of K-RCPS, to compare with the offsets that `conffusion.calibration.krcps` finds exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conffusion.calibration.krcps import PixelGroups, group_positions
from conffusion.core.arrays import FloatArray
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import CalibrationError

GAMMAS: tuple[float, ...] = tuple(np.linspace(0.3, 0.7, 16).tolist())
_MAX_TERMS = 1 << 14  # pixel values of a group that enter the convex problem
_NARROWEST = 1e-3  # width below which the convex loss goes on as a straight line, so that it stays finite
_PRECISION = 1e-8  # of the relaxed risk; the linear programmes are kept ten times as precisely
_MAX_CUTS = 60


def fit_convex(images: LabelledBounds, *, n_groups: int, level: float) -> PixelGroups:
    """Groups as `fit_pixel_groups`, with offsets by the relaxation of K-RCPS.

    `ConvexProblem` is solved for each gamma of `GAMMAS`, on up to 16384 values of each group spread evenly, and the
    shortest solution kept. Its offsets lie in [0, 0.5], and the risk that it leaves is well below `level`.

    Raises:
        CalibrationError: If no offsets control the relaxed risk.
    Source:
        Teneggi et al. 2023, "How to trust your diffusion model: a convex optimization approach to conformal risk
        control" (arXiv 2302.03791), section 4 and equation (P_K).
    """
    label, groups = group_positions(images, n_groups)
    counts = np.array([len(group.critical) for group in groups])
    parts = [slice(None, None, -(-count // _MAX_TERMS) | 1) for count in counts]  # odd, so that no column is favoured
    terms = list(zip(groups, parts, strict=True))
    widths = [(group.upper - group.lower)[part] for group, part in terms]
    distances = [np.abs(group.target - (group.lower + group.upper) / 2)[part] for group, part in terms]
    return PixelGroups(label, ConvexProblem(widths, distances, counts / counts.sum(), level).best())


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
                f" level = {self.level:g}; raise the level"
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
