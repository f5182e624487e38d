"""Exact search for lambda_hat: selection on critical values, without a grid.

Losses change only at critical values, so the lambdas fall into pieces [c_k, c_{k+1}) of constant losses. lambda_hat is
the left end of the lowest piece above which, itself included, every piece passes (Bates et al. 2021, equation for
lambda_hat: the smallest lambda such that the bound is at most alpha at every larger one). A few hundred pieces are
judged at once; what lies between two of them is accepted only on a certificate that covers every piece between, so
the definition is kept even for a bound that is not monotone in lambda.
"""

from dataclasses import dataclass

import numpy as np

from conffusion.calibration.pixels import Pixels
from conffusion.calibration.risk_bounds import Level, RiskBound
from conffusion.calibration.units import Counts, Units
from conffusion.core.arrays import BoolArray, FloatArray, IntArray

_LARGEST = float(np.finfo(np.float64).max)  # above every finite critical value
_MAX_EDGES = 256
_MAX_CELLS = 1 << 22  # units x edges judged at once
_MAX_COLLECTED = 1 << 22  # critical values held in memory


@dataclass(frozen=True)
class RiskTest:
    """What is tested at every lambda: is the bound of the mean loss of the units at most alpha?"""

    units: Units
    bound: RiskBound
    level: Level

    def passes(self, counts: Counts) -> BoolArray:
        """Whether each column of (N, n_columns) counts (or weights) of missed pixels per image passes."""
        return self.bound.passes(self.units.losses(counts), self.level)

    def certified(self, counts: Counts) -> BoolArray:
        """Whether all losses between each column of counts and the next pass: (n_columns - 1,)."""
        losses = self.units.losses(counts)
        ends = self.bound.passes(losses[:, :-1], self.level)
        return ends & self.bound.certifies(losses[:, :-1], losses[:, 1:], self.level)

    @property
    def n_edges(self) -> int:
        """Number of pieces judged at once."""
        return int(np.clip(_MAX_CELLS // self.units.n_units, 4, _MAX_EDGES))


@dataclass(frozen=True)
class SearchResult:
    """Result of the search.

    Attributes:
        lambda_hat: Smallest passing lambda, None if even lambda = infinity fails.
        counts: (N,) missed pixels of each image, or their weight, at lambda_hat (at infinity where there is none).
    """

    lambda_hat: float | None
    counts: Counts


@dataclass(frozen=True)
class Bracket:
    """An interval [low, high) of lambda that holds the highest failing piece.

    Attributes:
        low: Left end, where the test fails.
        high: Right end, from which on it passes.
        counts_low: (N,) missed pixels per image at `low`, or their weight.
        counts_high: (N,) missed pixels per image at `high`, or their weight.
    """

    low: float
    high: float
    counts_low: Counts
    counts_high: Counts

    def n_inside(self, pixels: Pixels) -> int:
        """Number of critical values in (low, high]."""
        if pixels.images.weights is not None:
            return pixels.number_between(self.low, self.high)
        return int(self.counts_low.sum() - self.counts_high.sum())


def smallest_passing(pixels: Pixels, risk_test: RiskTest) -> SearchResult:
    """The smallest lambda such that it and every larger one pass.

    After a sample that places the edges the critical values are read twice: to count misses at the edges, and to
    collect those in the one bracket left (more often only if that bracket holds millions). Memory is bounded by the
    table of counts and the bracket.
    """
    sample = np.sort(pixels.sample())
    tail = (
        1.0 if pixels.images.weights is not None else min(1.0, 1.5 * risk_test.level.alpha)
    )  # risk knows weights, tail not
    n_tail = max(1, int(np.ceil(tail * len(sample))))
    bracket = _narrow(pixels, risk_test, _spread(sample[-n_tail:], -np.inf, _LARGEST, risk_test.n_edges))
    for _ in range(3):
        if isinstance(bracket, SearchResult) or bracket.n_inside(pixels) <= _MAX_COLLECTED:
            break
        bracket = _narrow(pixels, risk_test, _spread(sample, bracket.low, bracket.high, risk_test.n_edges))
    return bracket if isinstance(bracket, SearchResult) else _Pieces.collect(pixels, bracket).search(risk_test)


def _spread(values: FloatArray, low: float, high: float, n_edges: int) -> FloatArray:
    """`low`, about n_edges of the sorted `values` strictly in between, and `high`."""
    inner = values[np.searchsorted(values, low, side="right") : np.searchsorted(values, high, side="left")]
    chosen = inner[np.linspace(0, len(inner) - 1, min(n_edges, len(inner))).astype(np.intp)]
    return np.concatenate([[low], np.unique(chosen), [high]])


def _narrow(pixels: Pixels, risk_test: RiskTest, edges: FloatArray) -> Bracket | SearchResult:
    """The part of [edges[0], edges[-1]) that holds the highest failing piece; no lambda_hat if the last edge fails."""
    counts = pixels.count_above(edges)
    passes, certified = risk_test.passes(counts), risk_test.certified(counts)
    if not passes[-1]:
        return SearchResult(None, counts[:, -1])
    low = int(np.flatnonzero(~passes)[-1])  # at -inf everything is missed, so one always fails
    high = int(np.flatnonzero(~certified)[-1]) + 1
    return Bracket(float(edges[low]), float(edges[high]), counts[:, low], counts[:, high])


@dataclass(frozen=True)
class _Pieces:
    """Collected critical values in (bracket.low, bracket.high), sorted, and the pieces that start at them.

    Piece 0 is [low, first value) and fails; piece k >= 1 starts at the k-th distinct value.

    Attributes:
        bracket: The bracket.
        images: Image of each collected value, in sorted order.
        weights: Weight of each, where pixels have weights.
        starts: (n_pieces,) left end of each piece.
        ends: (n_pieces,) number of collected values up to and including the piece's left end.
    """

    bracket: Bracket
    images: IntArray
    weights: FloatArray | None
    starts: FloatArray
    ends: IntArray

    @classmethod
    def collect(cls, pixels: Pixels, bracket: Bracket) -> "_Pieces":
        values, images, weights = pixels.between(bracket.low, bracket.high)
        order = np.argsort(values, kind="stable")
        distinct, n_equal = np.unique(values, return_counts=True)
        starts, ends = np.concatenate([[bracket.low], distinct]), np.concatenate([[0], n_equal.cumsum()])
        return cls(bracket, images[order], None if weights is None else weights[order], starts, ends)

    def search(self, risk_test: RiskTest) -> SearchResult:
        """lambda_hat, the left end of the piece after the highest failing one, and the misses there."""
        n_pieces = len(self.starts)
        at_last = self.bracket.counts_low - self._per_image(0)
        failing = self._highest_failing(risk_test, 0, n_pieces - 1, at_last)
        piece = 1 if failing is None else failing + 1  # piece 0 fails by construction
        if piece >= n_pieces:
            return SearchResult(self.bracket.high, self.bracket.counts_high)
        return SearchResult(float(self.starts[piece]), at_last + self._per_image(int(self.ends[piece])))

    def _per_image(self, first: int) -> Counts:
        """(N,) collected values from the first-th on, or their weight, per image."""
        weights = None if self.weights is None else self.weights[first:]
        return np.bincount(self.images[first:], weights, minlength=len(self.bracket.counts_low))

    def _highest_failing(self, risk_test: RiskTest, first: int, last: int, counts_last: Counts) -> int | None:
        """Highest failing piece of first..last, None if all pass; `counts_last` are the misses at piece `last`."""
        n_points = min(risk_test.n_edges, last - first + 1)
        points = np.unique(np.linspace(first, last, n_points).astype(np.intp))
        counts = self._counts(points, counts_last)
        passes = risk_test.passes(counts)
        if not passes[-1]:
            return last
        certified = risk_test.certified(counts)
        for j in np.flatnonzero(~certified)[::-1]:
            here, upper = int(points[j]), int(points[j + 1]) - 1
            if here == upper:
                failing = None if passes[j] else here
            else:
                between = self._counts(np.array([upper, upper + 1]), counts[:, j + 1])[:, 0]
                failing = self._highest_failing(risk_test, here, upper, between)
            if failing is not None:
                return failing
        return None

    def _counts(self, points: IntArray, counts_last: Counts) -> Counts:
        """(N, n_points) misses per image at increasing pieces `points`, given those at the last of them."""
        begin, end = int(self.ends[points[0]]), int(self.ends[points[-1]])
        segment = np.repeat(np.arange(len(points) - 1), np.diff(self.ends[points]))
        n_images, width = len(counts_last), len(points)
        cells = self.images[begin:end] * width + segment
        weights = None if self.weights is None else self.weights[begin:end]
        table = np.bincount(cells, weights, minlength=n_images * width).reshape(n_images, width)
        return np.asarray(counts_last[:, None] + table[:, ::-1].cumsum(axis=1)[:, ::-1])
