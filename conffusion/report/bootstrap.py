"""Resampling of test images and fine-tuning runs: the randomness behind the intervals of the claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from conffusion.core.arrays import FloatArray
from conffusion.errors import DataError
from conffusion.methods.registry import METHODS
from conffusion.report.results import N_STRATA, MethodResult, distinct, result_label, select

_MISSES = [f"misses_{k}" for k in range(1, N_STRATA + 1)]
_PIXELS = [f"pixels_{k}" for k in range(1, N_STRATA + 1)]
_SUMMED = ["n_images", "risk", "interval_size", *_MISSES, *_PIXELS]


@dataclass(frozen=True)
class MethodDraws:
    """Statistics of one method: entry 0 on the test images themselves, the others on resamples.

    Attributes:
        label: Name for people, with J.
        size: (1 + n_bootstrap,) mean interval size.
        risk: (1 + n_bootstrap,) mean risk of the images.
        spread: (1 + n_bootstrap,) largest minus smallest risk of the four quartiles of interval size; a quartile may be
            empty, where many intervals are of equal size, and is left out then.
        passes: Forward passes per image.
        seconds: Seconds per image.
    """

    label: str
    size: FloatArray
    risk: FloatArray
    spread: FloatArray
    passes: float
    seconds: float


def resample_methods(results: Sequence[MethodResult], n_bootstrap: int, seed: int) -> dict[str, MethodDraws]:
    """Resample one task under one protocol.

    Test images are drawn with replacement, whole groups at a time where images share a group, the same for every
    method: comparisons are paired. Where a method has several replicates, these are drawn with replacement too, on
    their own for each method. Which pixels belong to which quartile of interval size stays as it was on all images.

    Args:
        results: Method runs of one task and protocol.
        n_bootstrap: Number of resamples.
        seed: Seed; the same for every task and protocol, so that equal test sets meet equal resamples.
    Returns:
        Method name to its draws. NaN beyond entry 0 where there is only one group.
    Raises:
        DataError: If method_runs were evaluated on different images.
    """
    _check_same_images(results)
    weights = group_weights(results[0].per_image["group"].nunique(), n_bootstrap, seed)
    draws = {}
    for method in distinct(results, "method"):
        method_runs = select(results, method=method)
        chosen = replicate_weights(len(method_runs), n_bootstrap, [seed, 1 + list(METHODS).index(method)])
        draws[method] = _method_draws(method_runs, weights, chosen)
    return draws


def group_weights(n_groups: int, n_bootstrap: int, seed: int) -> FloatArray:
    """(1 + n_bootstrap, n_groups) how often each group is drawn; once in row 0. NaN below it for a single group."""
    first = np.ones((1, n_groups))
    if n_groups < 2:
        return np.concatenate([first, np.full((n_bootstrap, n_groups), np.nan)])
    generator = np.random.default_rng(seed)
    return np.concatenate([first, generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), n_bootstrap)])


def replicate_weights(n_replicates: int, n_bootstrap: int, seed: Sequence[int]) -> FloatArray:
    """(1 + n_bootstrap, n_replicates) weights that sum to 1; equal in row 0."""
    shares = np.full(n_replicates, 1 / n_replicates)
    counts = np.random.default_rng(seed).multinomial(n_replicates, shares, n_bootstrap)
    return np.concatenate([shares[None], counts / n_replicates])


def image_statistics(per_image: pd.DataFrame, weights: FloatArray) -> Mapping[str, FloatArray]:
    """Size, risk and spread of one method_run under weights (rows, groups), groups in sorted order; each (rows,)."""
    summed = per_image.assign(n_images=1).groupby("group", sort=True)[_SUMMED].sum().to_numpy(np.float64)
    totals = dict(zip(_SUMMED, (weights @ summed).T, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        strata = np.stack([totals[m] / totals[p] for m, p in zip(_MISSES, _PIXELS, strict=True)])
    return {
        "size": totals["interval_size"] / totals["n_images"],
        "risk": totals["risk"] / totals["n_images"],
        "spread": np.fmax.reduce(strata) - np.fmin.reduce(strata),  # of the quartiles that hold pixels
    }


def percentile_interval(draws: npt.NDArray[np.floating], coverage: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the resamples (entries from 1 on); NaN if any of them is."""
    tail = (1 - coverage) / 2
    low, high = np.quantile(draws[1:], [tail, 1 - tail])
    return float(low), float(high)


def _method_draws(method_runs: Sequence[MethodResult], weights: FloatArray, chosen: FloatArray) -> MethodDraws:
    statistics = [image_statistics(method_run.per_image, weights) for method_run in method_runs]
    mean = {
        name: np.sum([chosen[:, r] * one[name] for r, one in enumerate(statistics)], axis=0)
        for name in ("size", "risk", "spread")
    }
    passes, seconds = (
        float(np.mean([method_run.metrics[f"{name}_per_image"] for method_run in method_runs]))
        for name in ("forward_passes", "seconds")
    )
    return MethodDraws(result_label(method_runs[0]), mean["size"], mean["risk"], mean["spread"], passes, seconds)


def _check_same_images(results: Sequence[MethodResult]) -> None:
    first = results[0]
    for other in results[1:]:
        if not first.per_image[["image_id", "group"]].equals(other.per_image[["image_id", "group"]]):
            raise DataError(
                f"{other.folder}/per_image.csv and {first.folder}/per_image.csv list different images or groups;"
                " rerun the rule evaluate_method for both"
            )
