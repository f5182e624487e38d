"""Calibration procedures of other published code, restated: to be timed beside our search and to prove agreement.

Each procedure makes the array operations of the original at every lambda it tries, in float32 with torch. The source
of truth are the conformance fixtures stats/*, with which tests/test_peers_calibration.py compares all of this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks.krcps_convex import ConvexProblem
from conffusion.calibration.krcps import quantile_groups
from conffusion.calibration.ucb import OfficialVariant, official_ucb
from conffusion.core.arrays import FloatArray, IntArray

Grid = tuple[float, float, int]
Bounds = tuple[Tensor, Tensor]
Family = Callable[[Tensor], Bounds]
_BATCH = 64  # images that im2im-uq measures at a time, which fixes the order of its random numbers
_LEAST_REACH = 1e-6  # of an im2im-uq interval on each side of the prediction
_RISK_OFFSET = 1e-6  # that K-RCPS adds to the risk before it takes the bound
_LEAST_QUANTILE = 1e-2  # in multiplicative intervals of K-RCPS
_LEAST_DEVIATION = 1e-2
_LARGEST_OFFSET = 0.5  # of a group, in the convex problem


@dataclass(frozen=True)
class Scan:
    """Result of a scan.

    Attributes:
        lambda_hat: The chosen scale; a map for K-RCPS.
        n_evaluations: Number of lambdas at which the whole miss rate was computed.
    """

    lambda_hat: Tensor
    n_evaluations: int


def official_scan(
    lower: Tensor, upper: Tensor, target: Tensor, mask: Tensor | None, grid: Grid, alpha: float, delta: float
) -> Scan:
    """The official Conffusion scan: sets [l / lambda, lambda u], misses of all evaluated pixel values.

    Args:
        lower: (N, C, H, W) float32 lower bounds in [0, 1].
        upper: Upper bounds, same shape.
        target: Truth, same shape.
        mask: Same shape, pixels where it is 1 are evaluated; None evaluates all.
        grid: (start, stop, num) of the lambdas.
        alpha: Risk level.
        delta: Error level.
    Source:
        Horwitz and Hoshen 2022 (arXiv 2211.09795), section 3; fixtures stats/calibrate_sr and calibrate_inpainting.
    """
    evaluated = None if mask is None else torch.nonzero(mask == 1, as_tuple=True)
    n_values = target.numel() if evaluated is None else len(evaluated[0])

    def risk(scale: Tensor) -> float:
        missed = _misses(lower / scale, upper * scale, target)
        return (missed if evaluated is None else missed[evaluated]).mean().item()

    return _scan_grid(grid, risk, n_values, alpha, delta, "conffusion")


def _misses(lower: Tensor, upper: Tensor, target: Tensor) -> Tensor:
    """1 where the target lies outside, else 0; float32."""
    return ((lower > target).float() + (upper < target).float()).clamp_(max=1.0)


def _scan_grid(
    grid: Grid, risk: Callable[[Tensor], float], n: int, alpha: float, delta: float, variant: OfficialVariant
) -> Scan:
    """From the top down, the last lambda before the first whose successor fails; past the top if none fails."""
    scales = torch.linspace(*grid)
    step = scales[1] - scales[0]
    for count, scale in enumerate(reversed(scales), start=1):
        found = risk(scale - step)
        if found >= alpha or official_ucb(found, n, delta, variant) > alpha:
            return Scan(scale, count)
    return Scan(scales[-1] + step - 1e-9, len(scales))


def im2im_uq_sets(lower: Tensor, prediction: Tensor, upper: Tensor, scale: Tensor | float) -> Bounds:
    """im2im-uq sets: prediction -/+ lambda times the one-sided width, each side at least 1e-6; same shape as given.

    Source: Angelopoulos et al. 2022 (arXiv 2202.05265), section 2; fixture stats/calibrate_im2im_uq.
    """
    reach_down = prediction - torch.minimum(lower, prediction - _LEAST_REACH)
    reach_up = torch.maximum(upper, prediction + _LEAST_REACH) - prediction
    low, high = prediction - scale * reach_down, prediction + scale * reach_up
    return torch.minimum(low, prediction - _LEAST_REACH), torch.maximum(high, prediction + _LEAST_REACH)


def im2im_uq_losses(sets: Bounds, target: Tensor) -> Tensor:
    """(N,) share of missed values of each image."""
    return _misses(*sets, target).flatten(start_dim=1).mean(dim=1)


def im2im_uq_scan(
    lower: Tensor, prediction: Tensor, upper: Tensor, target: Tensor, grid: Grid, alpha: float, delta: float
) -> Scan:
    """im2im-uq's calibration: the same scan with its sets, one loss per image, n = images, and its own bound.

    Args:
        lower: (N, C, H, W) float32 lower bounds.
        prediction: Point predictions, same shape.
        upper: Upper bounds, same shape.
        target: Truth, same shape.
        grid: (start, stop, num) of the lambdas.
        alpha: Risk level.
        delta: Error level.
    Source:
        Angelopoulos et al. 2022 (arXiv 2202.05265), section 2; fixture stats/calibrate_im2im_uq.
    """

    def risk(scale: Tensor) -> float:
        batches = zip(*(array.split(_BATCH) for array in (lower, prediction, upper, target)), strict=True)
        losses = [im2im_uq_losses(im2im_uq_sets(low, middle, high, scale), y) for low, middle, high, y in batches]
        return torch.cat(losses).mean().item()

    return _scan_grid(grid, risk, len(target), alpha, delta, "im2im_uq")


@dataclass(frozen=True)
class Im2imMetrics:
    """im2im-uq's metrics: the size and the residual of one random pixel stand for an image.

    Attributes:
        risk: Mean of the images' losses.
        mean_sampled_size: Mean size over the sampled pixels.
        spearman: Rank correlation of residual and size over the sampled pixels.
        stratified_risks: Mean loss of the images in each quarter of size, left-open from 0.
        sampled_mse: Mean squared residual over the sampled pixels.
    """

    risk: float
    mean_sampled_size: float
    spearman: float
    stratified_risks: tuple[float, ...]
    sampled_mse: float


def im2im_uq_metrics(
    lower: Tensor, prediction: Tensor, upper: Tensor, target: Tensor, scale: float, seed: int
) -> Im2imMetrics:
    """Metrics at one scale, without the jitter that breaks ties; pixels come from NumPy's legacy generator."""
    sets = im2im_uq_sets(lower, prediction, upper, scale)
    losses = im2im_uq_losses(sets, target)
    rows, columns = torch.arange(len(target)), _sampled_pixels(len(target), target[0].numel(), seed)
    sizes = (sets[1] - sets[0]).flatten(1)[rows, columns]
    residuals = (target - prediction).abs().flatten(1)[rows, columns]
    edges = torch.cat([torch.zeros(1), torch.quantile(sizes, torch.tensor([0.25, 0.5, 0.75]))])
    quarter = torch.bucketize(sizes, edges) - 1
    return Im2imMetrics(
        losses.mean().item(),
        sizes.mean().item(),
        float(stats.spearmanr(residuals, sizes)[0]),
        tuple(losses[quarter == index].mean().item() for index in range(4)),
        residuals.square().mean().item(),
    )


def _sampled_pixels(n_images: int, n_pixels: int, seed: int) -> Tensor:
    generator = np.random.RandomState(seed)
    starts = range(0, n_images, _BATCH)
    drawn = [generator.choice(n_pixels, size=min(_BATCH, n_images - start)) for start in starts]
    return torch.from_numpy(np.concatenate(drawn))


def krcps_intervals(kind: str, lower: Tensor, upper: Tensor, prediction: Tensor, lam: Tensor | float) -> Bounds:
    """K-RCPS interval constructions from three predictions, clamped to [0, 1].

    Args:
        kind: "mse" (prediction -/+ lambda), "qr_additive" or "conffusion_additive" (sorted bounds -/+ lambda),
            "conffusion_multiplicative" (sorted bounds, l / lambda and lambda u), or "qr_multiplicative" (prediction
            -/+ lambda times the lower output on both sides, as the original has it).
        lower: Lower bounds, any shape.
        upper: Upper bounds, same shape.
        prediction: Point prediction, same shape.
        lam: Scale; a number or an array that broadcasts.
    Source:
        Teneggi et al. 2023 (arXiv 2302.03791); fixture stats/krcps_intervals.
    """
    return _krcps_family(kind, lower, upper, prediction)(torch.as_tensor(lam))


def _krcps_family(kind: str, lower: Tensor, upper: Tensor, prediction: Tensor) -> Family:
    """lambda -> intervals, with what does not depend on lambda done beforehand."""
    if kind == "mse":
        return _moving(prediction, prediction)
    if kind == "qr_multiplicative":
        return _stretching(prediction, lower.clamp(min=_LEAST_QUANTILE))
    low, high = torch.minimum(lower, upper), torch.maximum(lower, upper)
    if kind in ("qr_additive", "conffusion_additive"):
        return _moving(low, high)
    if kind == "conffusion_multiplicative":
        return lambda lam: ((low / lam).clamp(0.0, 1.0), (high * lam).clamp(0.0, 1.0))
    raise ValueError(f"kind = {kind!r}: no such K-RCPS intervals")


def krcps_sampled_intervals(kind: str, samples: Tensor, lam: float, level: float = 0.1) -> Bounds:
    """K-RCPS interval constructions from variants, clamped to [0, 1].

    Args:
        kind: "std" (mean -/+ lambda times the deviation, at least 0.01), "naive_sampling_additive" (quantiles
            level / 2 and 1 - level / 2, -/+ lambda) or "calibrated_quantile" (the same with the quantiles
            floor((m + 1) level / 2) / m and min(1, ceil((m + 1) (1 - level / 2)) / m)).
        samples: (N, m, ...) variants.
        lam: Scale.
        level: Share of variants outside.
    Source:
        Teneggi et al. 2023 (arXiv 2302.03791); fixture stats/krcps_intervals.
    """
    if kind == "std":
        deviation = samples.std(dim=1).clamp(min=_LEAST_DEVIATION)
        return _stretching(samples.mean(dim=1), deviation)(torch.as_tensor(lam))
    ends = torch.tensor([level / 2, 1 - level / 2])
    if kind == "calibrated_quantile":
        n_samples = samples.shape[1]
        ends = (n_samples + 1) * ends
        ends = (torch.stack([ends[0].floor(), ends[1].ceil()]) / n_samples).clamp(max=1.0)
    elif kind != "naive_sampling_additive":
        raise ValueError(f"kind = {kind!r}: no such K-RCPS intervals")
    return _moving(*torch.quantile(samples, ends, dim=1))(torch.as_tensor(lam))


def _moving(low: Tensor, high: Tensor) -> Family:
    return lambda lam: ((low - lam).clamp(0.0, 1.0), (high + lam).clamp(0.0, 1.0))


def _stretching(middle: Tensor, reach: Tensor) -> Family:
    return lambda lam: ((middle - lam * reach).clamp(0.0, 1.0), (middle + lam * reach).clamp(0.0, 1.0))


@dataclass(frozen=True)
class RcpsSettings:
    """What K-RCPS calls epsilon is the risk level `alpha`.

    Attributes:
        kind: Intervals, as in `krcps_intervals`.
        alpha: Risk level.
        delta: Error level.
        step: Lambda goes down in steps of this size.
    """

    kind: str
    alpha: float
    delta: float
    step: float


def krcps_rcps(
    lower: Tensor, upper: Tensor, prediction: Tensor, target: Tensor, start: Tensor | float, settings: RcpsSettings
) -> Scan:
    """RCPS as in K-RCPS: from `start` down in fixed steps, all entries together, none below 0, while the bound holds.

    Args:
        lower: (N, ..., H, W) float32 lower bounds in [0, 1].
        upper: Upper bounds, same shape.
        prediction: Point predictions, same shape.
        target: Truth, same shape.
        start: Number or (H, W) map.
        settings: Intervals, levels and step.
    Raises:
        ValueError: If the bound exceeds alpha at the start.
    Source:
        Bates et al. 2021 (arXiv 2101.02703); fixture stats/krcps_procedures.
    """
    intervals = _krcps_family(settings.kind, lower, upper, prediction)
    scale, before, count = torch.as_tensor(start, dtype=torch.float32), None, 0
    while _krcps_ucb(intervals(scale), target, settings.delta) <= settings.alpha:
        before, count = scale, count + 1
        if bool((scale == 0).all()):
            return Scan(before, count)
        scale = (scale - settings.step).clamp(min=0.0)
    if before is None:
        raise ValueError("the bound exceeds alpha at the start: start higher")
    return Scan(before, count + 1)


def _krcps_ucb(bounds: Bounds, target: Tensor, delta: float) -> float:
    """Its bound: the official one, with n = images and the risk raised by 1e-6."""
    missed = torch.where((target >= bounds[0]) & (target <= bounds[1]), 0.0, 1.0)
    return official_ucb(min(1.0, missed.mean().item() + _RISK_OFFSET), len(target), delta)


@dataclass(frozen=True)
class KrcpsSettings:
    """Settings of K-RCPS.

    Attributes:
        rcps: Intervals, levels and step of the last part.
        lambda_max: Added to the offsets of all groups before they go down together.
        n_optimisation: Images for the convex problem; the others calibrate.
        n_groups: Number of groups K.
        membership: "01_loss_quantile" or "01_loss_otsu".
        n_positions: Pixel positions in the convex problem, shared out to the groups by size.
        gammas: Values of gamma to try.
        seed: Of the choice of images and positions.
    """

    rcps: RcpsSettings
    lambda_max: float
    n_optimisation: int
    n_groups: int
    membership: str
    n_positions: int
    gammas: Sequence[float]
    seed: int


@dataclass(frozen=True)
class KrcpsResult:
    """Result of K-RCPS.

    Attributes:
        label: (H, W) group of each position.
        objectives: Smallest objective at each gamma, inf where there is no solution.
        offsets: (K,) offsets of the best gamma.
        scan: Calibrated (H, W) map of offsets.
        calibration_images: Images that calibrated, as indices.
    """

    label: IntArray
    objectives: tuple[float, ...]
    offsets: FloatArray
    scan: Scan
    calibration_images: IntArray


def krcps_k(lower: Tensor, upper: Tensor, prediction: Tensor, target: Tensor, settings: KrcpsSettings) -> KrcpsResult:
    """K-RCPS: offsets of K groups of positions from a convex problem, then RCPS on all of them together.

    The convex problem is that of the original; it is solved by our `ConvexProblem`, not by a general solver.

    Args:
        lower: (N, H, W) or (N, C, H, W) float32 lower bounds in [0, 1]; groups are common to channels.
        upper: Upper bounds, same shape.
        prediction: Point predictions, same shape.
        target: Truth, same shape.
        settings: See `KrcpsSettings`.
    Source:
        Teneggi et al. 2023 (arXiv 2302.03791), procedure K-RCPS; fixture stats/krcps_procedures.
    """
    generator = np.random.default_rng(settings.seed)
    order = generator.permutation(len(target))
    fitting, calibrating = order[: settings.n_optimisation], order[settings.n_optimisation :]
    low, high = krcps_intervals(settings.rcps.kind, lower[fitting], upper[fitting], prediction[fitting], 0.0)
    low, high, truth = (array.reshape(-1, *array.shape[-2:]) for array in (low, high, target[fitting]))
    label = _membership(torch.where((truth >= low) & (truth <= high), 0.0, 1.0).mean(dim=0).numpy(), settings)
    problem, n_chosen = _convex_problem((low, high), truth, label, settings, generator)
    solutions = [problem.solve(gamma) for gamma in settings.gammas]
    objectives = [np.inf if part is None else n_chosen * float(problem.shares @ part) for part in solutions]
    offsets = solutions[int(np.argmin(objectives))]
    if offsets is None:
        raise ValueError("the convex problem has no solution at any gamma")
    start = torch.from_numpy(offsets.astype(np.float32)[label]) + settings.lambda_max
    low, high, middle, truth = (array[calibrating] for array in (lower, upper, prediction, target))
    scan = krcps_rcps(low, high, middle, truth, start, settings.rcps)
    return KrcpsResult(label, tuple(objectives), offsets, scan, calibrating)


def _membership(miss_rate: FloatArray, settings: KrcpsSettings) -> IntArray:
    """Group of each position by its miss rate at lambda = 0."""
    if settings.membership == "01_loss_quantile":
        return quantile_groups(miss_rate, settings.n_groups)
    from skimage.filters import threshold_multiotsu  # only here: the package does not need it

    edges: FloatArray = threshold_multiotsu(miss_rate, classes=settings.n_groups)  # type: ignore[no-untyped-call]
    return np.searchsorted(edges, miss_rate, side="left")


def _convex_problem(
    bounds: Bounds,
    truth: Tensor,
    label: IntArray,
    settings: KrcpsSettings,
    generator: np.random.Generator,
) -> tuple[ConvexProblem, int]:
    """The problem on randomly chosen positions of each group, and their number."""
    counts = np.bincount(label.reshape(-1))
    shares = np.round(settings.n_positions / label.size * counts).astype(int)
    widths, distances = [], []
    for group, share in enumerate(shares):
        rows, columns = np.nonzero(label == group)
        chosen = generator.choice(len(rows), size=share, replace=False)
        low, high, target = (array[:, rows[chosen], columns[chosen]].numpy() for array in (*bounds, truth))
        widths.append((high - low).astype(np.float64).reshape(-1))
        distances.append(np.abs(target - (low + high) / 2).astype(np.float64).reshape(-1))
    level = settings.rcps.alpha
    return ConvexProblem(widths, distances, shares / shares.sum(), level, _LARGEST_OFFSET), int(shares.sum())
