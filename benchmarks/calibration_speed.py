"""Time of the exact search for lambda_hat beside the scans of peers, as restated in `peers_calibration`."""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers_calibration as peers
from benchmarks.calibration_memory import Record, Table, made_up_bounds
from conffusion.calibration import Calibration, Family, LabelledBounds, calibrate
from conffusion.calibration.krcps import fit_pixel_groups
from conffusion.core.arrays import FloatArray

Arrays = tuple[FloatArray, FloatArray, FloatArray]  # lower, upper, target
IM2IM_UQ_GRID = (0.0, 6.0, 1000)
KRCPS_LARGEST, KRCPS_STEP = 0.5, 0.002
KRCPS_GROUPS, KRCPS_POSITIONS, KRCPS_SHARE = 4, 50, 0.25
KRCPS_GAMMAS = tuple(np.linspace(0.3, 0.7, 16).tolist())
_ROUNDING = 1e-3  # of a step: the peers compute in float32
TEXT = """\
Peers: our own restatement of their algorithm (`peers_calibration.py`), not their code. Ratios are ours over the peer;
below 1, ours is faster. CPU seconds are those of all threads. Ours: medians of interleaved rounds after a warm-up;
peers run once. `steps apart` is the difference of both lambda_hat in steps of the peer's grid; `agrees` (within one
step) is judged where both solve the same problem. Where times are extrapolated, a part of the lambdas is tried, the
time per evaluation is multiplied by the number that the whole scan makes, and agreement is checked by the scan's own
steps around our lambda_hat."""


@dataclass(frozen=True)
class Times:
    """Seconds by the clock and of the processor."""

    wall: float
    cpu: float

    def scaled(self, factor: float) -> "Times":
        """Both times the factor."""
        return Times(self.wall * factor, self.cpu * factor)

    def plus(self, other: "Times", factor: float = 1.0) -> "Times":
        """This, and `factor` times another."""
        return Times(self.wall + factor * other.wall, self.cpu + factor * other.cpu)


@dataclass(frozen=True)
class Ours:
    """One call of `calibrate`.

    Attributes:
        name: For the table.
        peer: Peer that it is compared with.
        request: What `calibrate` is asked for, beside alpha and delta.
        same_problem: Whether the peer looks for the same lambda_hat.
    """

    name: str
    peer: str
    request: Mapping[str, Any] = field(default_factory=dict)
    same_problem: bool = True


@dataclass(frozen=True)
class Peer:
    """A scan from the top down.

    Attributes:
        scan: Runs it on (start, stop, num).
        grid: The grid that it runs on.
        n_more: Evaluations beyond one for each grid point from the top down to lambda_hat.
    """

    scan: Callable[[peers.Grid], peers.Scan]
    grid: peers.Grid
    n_more: int = 0

    @property
    def step(self) -> float:
        """Distance of grid points."""
        start, stop, num = self.grid
        return (stop - start) / (num - 1)


@dataclass(frozen=True)
class Outcome:
    """What a peer took and found."""

    times: Times
    lambda_hat: float
    basis: str


def measure_speed(options: argparse.Namespace) -> list[Table]:
    """Ours beside every peer."""
    arrays = made_up_bounds(tuple(options.size), options.seed)
    promise = {"alpha": options.alpha, "delta": options.delta}
    calls = {ours.name: partial(_calibrated, arrays, {**promise, **ours.request}) for ours in _ours(options)}
    found, times = _interleaved(calls, options.rounds)
    scans, rows = _peers(arrays, options), []
    outcomes: dict[str, Outcome] = {}
    for ours in _ours(options):
        if ours.peer not in outcomes:  # the first beside each peer solves the same problem
            outcomes[ours.peer] = _run(scans[ours.peer], found[ours.name].lambda_hat, options.scan_points)
        outcome, scale = outcomes[ours.peer], found[ours.name].lambda_hat
        apart = (scale - outcome.lambda_hat) / scans[ours.peer].step
        rows.append(
            {
                **_row(ours.name, ours.peer, times[ours.name], outcome.times),
                "ours_lambda": scale,
                "peer_lambda": outcome.lambda_hat,
                "steps_apart": apart if ours.same_problem else None,
                "agrees": _agrees(apart) if ours.same_problem else None,
                "peer_times": outcome.basis,
            }
        )
    heading = f"Speed: {' x '.join(map(str, options.size))}, {torch.get_num_threads()} thread(s)"
    return [(heading, TEXT, rows), _krcps_table(arrays, options)]


def _calibrated(arrays: Arrays, request: Mapping[str, Any]) -> Calibration:
    return calibrate(*arrays, **{"scaling": "multiplicative", **request})


def _agrees(apart: float) -> str:
    return "yes" if abs(apart) <= 1.0 + _ROUNDING else "no"


def _row(name: str, peer: str, ours: Times, theirs: Times) -> Record:
    return {
        "ours": name,
        "peer": peer,
        "ours_wall_s": ours.wall,
        "ours_cpu_s": ours.cpu,
        "peer_wall_s": theirs.wall,
        "peer_cpu_s": theirs.cpu,
        "wall_ratio": ours.wall / theirs.wall,
        "cpu_ratio": ours.cpu / theirs.cpu,
    }


def _ours(options: argparse.Namespace) -> list[Ours]:
    """What is compared; the first beside each peer looks for the same lambda_hat."""
    official = {"ucb": "official", "unit": "pixel"}
    of_images = {"ucb": "official", "unit": "image"}
    return [
        Ours("official protocol, exact", "official scan", official),
        Ours("official protocol on its grid", "official scan", {**official, "lambda_grid": options.grid}),
        Ours("guaranteed, star per image", "official scan", {"ucb": "star", "unit": "image"}, same_problem=False),
        Ours("guaranteed, wsr per image", "official scan", {"ucb": "wsr", "unit": "image"}, same_problem=False),
        Ours("sets of im2im-uq, exact", "im2im-uq scan", {**of_images, "scaling": "interval"}),
        Ours("sets of RCPS, exact", "k-rcps RCPS", {**of_images, "scaling": "additive"}),
    ]


def _peers(arrays: Arrays, options: argparse.Namespace) -> dict[str, Peer]:
    lower, upper, target = (torch.from_numpy(array) for array in arrays)
    middle = (lower + upper) / 2
    levels = {"alpha": options.alpha, "delta": options.delta}

    def rcps(grid: peers.Grid) -> peers.Scan:
        settings = peers.RcpsSettings("conffusion_additive", step=_step(grid), **levels)
        return peers.krcps_rcps(lower, upper, middle, target, grid[1], settings)

    n_points = round(KRCPS_LARGEST / KRCPS_STEP) + 1
    return {
        "official scan": Peer(
            lambda grid: peers.official_scan(lower, upper, target, None, grid, **levels), options.grid
        ),
        "im2im-uq scan": Peer(
            lambda grid: peers.im2im_uq_scan(lower, middle, upper, target, grid, **levels), IM2IM_UQ_GRID
        ),
        "k-rcps RCPS": Peer(rcps, (0.0, KRCPS_LARGEST, n_points), n_more=1),
    }


def _step(grid: peers.Grid) -> float:
    return (grid[1] - grid[0]) / (grid[2] - 1)


def _interleaved(
    calls: Mapping[str, Callable[[], Calibration]], n_rounds: int
) -> tuple[dict[str, Calibration], dict[str, Times]]:
    """Results, and medians over the rounds, in each of which all are called in turn."""
    found = {name: call() for name, call in calls.items()}
    rounds = [{name: _timed(call)[1] for name, call in calls.items()} for _ in range(n_rounds)]
    return found, {name: _median([times[name] for times in rounds]) for name in calls}


def _median(times: Sequence[Times]) -> Times:
    return Times(statistics.median(part.wall for part in times), statistics.median(part.cpu for part in times))


def _timed(call: Callable[[], Any]) -> tuple[Any, Times]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, Times(time.perf_counter() - wall, time.process_time() - cpu)


def _run(peer: Peer, exact: float, n_tried: int | None) -> Outcome:
    """Time of the peer's scan, and its lambda_hat; of a part of it where `n_tried` lambdas are enough."""
    start, stop, num = peer.grid
    index = max(0, math.ceil((exact - start) / peer.step - _ROUNDING))  # of the smallest grid point that passes
    n_all = num - index + peer.n_more
    if n_tried is None or n_tried >= n_all:
        scan, times = _timed(lambda: peer.scan(peer.grid))
        return Outcome(times, scan.lambda_hat.item(), f"measured, {scan.n_evaluations} evaluations")
    lowest = start + index * peer.step
    first = max(0, index - 2)  # this one warms up, too
    around = peer.scan((start + first * peer.step, start + (index + 2) * peer.step, index + 3 - first))
    part, times = _timed(lambda: peer.scan((lowest, stop, max(2, n_tried))))
    basis = f"extrapolated from {part.n_evaluations} of {n_all} evaluations"
    return Outcome(times.scaled(n_all / part.n_evaluations), around.lambda_hat.item(), basis)


def _krcps_table(arrays: Arrays, options: argparse.Namespace) -> Table:
    """K-RCPS beside our groups of pixels: another problem under the same bound, so sizes are shown, not lambda_hat."""
    found, ours = _timed(lambda: _pixel_groups(arrays, options))
    ours_size = _mean_size(*found.apply(*(array[_n_fitted(options) :] for array in arrays[:2])))
    theirs, basis, peer_size = _krcps(arrays, options)
    row = {**_row("pixel groups, fitted and calibrated", "k-rcps K-RCPS", ours, theirs), "peer_times": basis}
    sizes = {"ours_mean_size": ours_size, "peer_mean_size": peer_size}
    text = (
        f"{KRCPS_GROUPS} groups of pixel positions fitted on {_n_fitted(options)} images, calibrated on the others with"
        f" the official bound of images. Each runs once. Our scale: {found.lambda_hat:.4g} beyond the fitted offsets."
    )
    return "Speed: groups of pixels", text, [row | sizes]


def _n_fitted(options: argparse.Namespace) -> int:
    return max(1, int(KRCPS_SHARE * options.size[0]))


def _pixel_groups(arrays: Arrays, options: argparse.Namespace) -> Calibration:
    n_fitted = _n_fitted(options)
    lower, upper, target = (array[n_fitted:] for array in arrays)
    fitting = [array[:n_fitted] for array in arrays]
    family = Family(
        "pixel_groups", fit_pixel_groups(LabelledBounds(*fitting), n_groups=KRCPS_GROUPS, level=options.alpha)
    )
    promise = {"alpha": options.alpha, "delta": options.delta}
    return calibrate(lower, upper, target, scaling=family, ucb="official", unit="image", **promise)


def _krcps(arrays: Arrays, options: argparse.Namespace) -> tuple[Times, str, float | None]:
    """Times of K-RCPS, what they rest on, and its mean size where the whole scan ran."""
    lower, upper, target = (torch.from_numpy(array) for array in arrays)
    middle = (lower + upper) / 2
    n_tried = options.scan_points
    step = KRCPS_STEP if n_tried is None else max(KRCPS_STEP, KRCPS_LARGEST / n_tried)
    rcps = peers.RcpsSettings("conffusion_additive", options.alpha, options.delta, step)
    settings = peers.KrcpsSettings(
        rcps, KRCPS_LARGEST, _n_fitted(options), KRCPS_GROUPS, "01_loss_quantile", _n_positions(options), KRCPS_GAMMAS,
        options.seed,
    )  # fmt: skip
    result, total = _timed(lambda: peers.krcps_k(lower, upper, middle, target, settings))
    low, high, centre, truth = (array[result.calibration_images] for array in (lower, upper, middle, target))
    size = _mean_size(*peers.krcps_intervals(rcps.kind, low, high, centre, result.scan.lambda_hat))
    count = result.scan.n_evaluations
    if step == KRCPS_STEP:
        return total, f"measured, {count} evaluations", size
    start = torch.from_numpy(result.offsets.astype(np.float32)[result.label]) + KRCPS_LARGEST
    _, scanned = _timed(lambda: peers.krcps_rcps(low, high, centre, truth, start, rcps))
    n_all = 2 + int((count - 2) * step / KRCPS_STEP)  # at least: the last coarse step that passed
    basis = f"scan extrapolated from {count} of at least {n_all} evaluations"
    return total.plus(scanned, n_all / count - 1.0), basis, None  # the coarse scan's size is not the procedure's


def _n_positions(options: argparse.Namespace) -> int:
    return min(KRCPS_POSITIONS, options.size[2] * options.size[3] // 2)


def _mean_size(lower: FloatArray | Tensor, upper: FloatArray | Tensor) -> float:
    return float((upper - lower).mean())
