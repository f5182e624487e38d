"""What calibrated interval size and CRPS cost in forward passes: solvers, T, J and early stops compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from conffusion.bounds import sampled_bounds
from conffusion.calibration import critical_lambda
from conffusion.calibration.scaling import get_scaling
from conffusion.config.schema import SolverStudySettings
from conffusion.core.arrays import FloatArray
from conffusion.core.choices import PAPER_SCALING
from conffusion.core.randomness import keyed_generator
from conffusion.evaluation.scores import crps
from conffusion.sampling.adaptive_stopping import AdaptiveStopping
from conffusion.store import SealedStore, atomic_path, open_store, read_array, write_text

_N_RESAMPLES = 400
_GRID = np.linspace(0.85, 1.15, 13)  # scales around lambda at which sizes are known; between them they are interpolated


@dataclass(frozen=True)
class _Truth:
    """Images of the study.

    Attributes:
        target: (N, C, H, W) in [0, 1].
        mask: (N, C, H, W) of booleans, evaluated pixels.
        resamples: (n_resamples, N) weights of the images in bootstrap samples, the same for every setting.
    """

    target: FloatArray
    mask: npt.NDArray[np.bool_]
    resamples: FloatArray


def measure_solvers(
    settings: SolverStudySettings,
    alpha: float,
    seed: int,
    *,
    images: str | Path,
    variants: Sequence[str | Path],
    output: str | Path,
) -> None:
    """Write the size at risk alpha, and the CRPS, of every setting on one task.

    Args:
        settings: What is compared.
        alpha: Risk level: each setting's bounds are scaled until the mean risk of these very images is alpha.
        seed: Of the bootstrap over images.
        images: Image store of the split.
        variants: Variant stores of its first images, one for each solver and T.
        output: CSV file with a row for each solver, T and J: task, solver, n_steps, n_variants, precision (NaN),
            forward_passes_per_image, seconds_per_image, interval_size, size_ratio to the reference with its 95 %
            interval ci_low, ci_high (bootstrap over images, bounds rescaled in every sample; size_ratio_interval is
            its text), crps, crps_ratio. With early stops, rows with a precision, whose n_variants is the mean.
    Raises:
        StoreError: If a store is incomplete.
    """
    stores = [open_store(path) for path in variants]
    truth = _truth(open_store(images), len(stores[0].image_ids), seed)
    measured = [row for store in stores for row in _measure(store, settings, alpha, truth)]
    table = pd.DataFrame([row for row, _ in measured])
    reference = settings.reference
    is_reference = (table["solver"] == reference.solver) & (table["n_steps"] == reference.n_steps)
    is_reference &= (table["n_variants"] == reference.n_variants) & table["precision"].isna()
    place = int(np.flatnonzero(is_reference)[0])
    ratios = np.stack([resampled for _, resampled in measured]) / measured[place][1]
    low, high = np.quantile(ratios, [0.025, 0.975], axis=1)
    table = table.assign(
        task=str(stores[0].attributes["task"]),
        size_ratio=table["interval_size"] / table["interval_size"][place],
        ci_low=low, ci_high=high,
        size_ratio_interval=[f"{a:.3f}–{b:.3f}" for a, b in zip(low, high, strict=True)],
        crps_ratio=table["crps"] / table["crps"][place],
    )  # fmt: skip
    with atomic_path(output) as temporary:
        table.to_csv(temporary, index=False)


def choose_solver(table: pd.DataFrame, tolerance: float) -> dict[str, Any]:
    """The setting with the fewest forward passes whose size and CRPS are within the tolerance on every task.

    Args:
        table: Rows of `measure_solvers` of all tasks.
        tolerance: Share above the reference's size and CRPS that is allowed.
    Returns:
        solver, n_steps and n_variants, as under `sampling`.
    """
    fixed = table[table["precision"].isna()]
    worst = fixed.groupby(["solver", "n_steps", "n_variants"])[
        ["size_ratio", "crps_ratio", "forward_passes_per_image"]
    ].max()
    good = worst[(worst["size_ratio"] <= 1 + tolerance) & (worst["crps_ratio"] <= 1 + tolerance)]
    solver, n_steps, n_variants = good.sort_values(["forward_passes_per_image", "size_ratio"]).index[0]
    return {"solver": str(solver), "n_steps": int(n_steps), "n_variants": int(n_variants)}


def write_choice(choice: dict[str, Any], output: str | Path) -> None:
    """An overlay of the configuration with the chosen setting."""
    write_text(output, yaml.safe_dump({"sampling": choice}, sort_keys=False))


def _truth(store: SealedStore, n_images: int, seed: int) -> _Truth:
    rows = slice(0, n_images)
    resampled = keyed_generator("solver study", seed).integers(n_images, size=(_N_RESAMPLES, n_images))
    weights = np.stack([np.bincount(row, minlength=n_images) for row in resampled]).astype(np.float64)
    return _Truth(read_array(store["target"], rows), read_array(store["mask"], rows) == 1, weights)


def _measure(
    store: SealedStore, settings: SolverStudySettings, alpha: float, truth: _Truth
) -> Iterator[tuple[dict[str, Any], FloatArray]]:
    """Rows of one store, each with the sizes of the bootstrap samples."""
    pool, drawn_with = read_array(store["variants"]), store.attributes["sampling"]
    n_drawn = pool.shape[1]
    n_calls = store.attributes["forward_passes_per_image"] / n_drawn
    base = {"solver": drawn_with["solver"], "n_steps": round(n_calls)}
    for numbers, precision in _amounts(pool, settings, alpha, truth):
        size, resampled = _sizes(_bounds(pool, numbers, alpha), alpha, truth)
        passes = n_calls * float(np.mean(numbers))
        yield {
            **base, "n_variants": float(np.mean(numbers)), "precision": precision, "forward_passes_per_image": passes,
            "seconds_per_image": store.attributes["seconds_per_image"] * float(np.mean(numbers)) / n_drawn,
            "interval_size": size, "crps": _crps(pool, numbers, truth),
        }, resampled  # fmt: skip


def _amounts(
    pool: npt.NDArray[Any], settings: SolverStudySettings, alpha: float, truth: _Truth
) -> Iterator[tuple[list[int], float]]:
    """How many of the drawn variants each image uses, and the precision that decided it (NaN: the same for all)."""
    n_images, n_drawn = pool.shape[:2]
    for number in sorted(settings.n_variants):
        if number <= n_drawn:
            yield [number] * n_images, np.nan
    if n_drawn == max(settings.n_variants):  # the reference is not drawn in full
        for precision in settings.precisions:
            rule = AdaptiveStopping(precision, alpha / 2, settings.round)
            yield (
                [_n_drawn(variants, mask, rule) for variants, mask in zip(pool, truth.mask, strict=True)],
                precision,
            )


def _n_drawn(variants: npt.NDArray[Any], mask: npt.NDArray[np.bool_], rule: AdaptiveStopping) -> int:
    """How many of an image's variants would have been drawn."""
    looks = [*range(rule.round, len(variants), rule.round), len(variants)]
    enough = (number for number in looks if rule.should_stop(variants[:number], mask.astype(np.uint8)))
    return next(enough, len(variants))


def _bounds(pool: npt.NDArray[Any], numbers: Sequence[int], alpha: float) -> tuple[FloatArray, FloatArray]:
    unit = 255.0 if pool.dtype == np.uint8 else 1.0
    pairs = [
        sampled_bounds(variants[:number], alpha / 2, 1 - alpha / 2)
        for variants, number in zip(pool, numbers, strict=True)
    ]
    lower, upper = (np.stack(side).astype(np.float64) / unit for side in zip(*pairs, strict=True))
    return lower, upper


def _sizes(bounds: tuple[FloatArray, FloatArray], alpha: float, truth: _Truth) -> tuple[float, FloatArray]:
    """Mean size of intervals scaled to risk alpha: on the images, and on each bootstrap sample of them."""
    lower, upper, target = (array[truth.mask].reshape(len(truth.target), -1) for array in (*bounds, truth.target))
    critical = critical_lambda(lower, upper, target, PAPER_SCALING)
    order = np.argsort(critical, axis=None)
    sorted_lambdas, image_of = critical.ravel()[order], order // critical.shape[1]
    weights = np.concatenate([np.ones((1, len(critical))), truth.resamples])
    lambdas = np.array([_quantile(sorted_lambdas, row[image_of], 1 - alpha) for row in weights])
    scales = lambdas[0] * _GRID
    widths = np.stack([_mean_widths(lower, upper, scale) for scale in scales])  # (n_scales, N)
    sizes = [np.interp(scale, scales, widths @ row / row.sum()) for scale, row in zip(lambdas, weights, strict=True)]
    return float(sizes[0]), np.array(sizes[1:])


def _quantile(values: FloatArray, weights: FloatArray, level: float) -> float:
    """Smallest of the sorted values up to which the weights reach the level."""
    cumulative = np.cumsum(weights)
    return float(values[np.searchsorted(cumulative, level * cumulative[-1] * (1 - 1e-12))])


def _mean_widths(lower: FloatArray, upper: FloatArray, scale: float) -> FloatArray:
    low, high = get_scaling(PAPER_SCALING).apply(lower, upper, scale)
    widths: FloatArray = (high.clip(0, 1) - low.clip(0, 1)).mean(axis=1)
    return widths


def _crps(pool: npt.NDArray[Any], numbers: Sequence[int], truth: _Truth) -> float:
    unit = 255.0 if pool.dtype == np.uint8 else 1.0
    scores = [
        crps(variants[:number][:, mask] / unit, target[mask]).mean()
        for variants, number, target, mask in zip(pool, numbers, truth.target, truth.mask, strict=True)
    ]
    return float(np.mean(scores))
