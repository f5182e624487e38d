"""The claims of the paper that a run can test, each with its statistic, an interval and a verdict."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from conffusion.core.arrays import FloatArray
from conffusion.errors import DataError
from conffusion.methods.registry import METHODS
from conffusion.report.bootstrap import MethodDraws, percentile_interval, resample_methods
from conffusion.report.results import (
    MethodResult,
    distinct,
    load_results,
    method_label,
    protocol_rank,
    select,
    task_label,
)
from conffusion.report.verdict_table import claim_rows, claims_for_people, common_note
from conffusion.report.verdicts import LARGEST_RISK, PASSES, RISK, SIZE, SPREAD, Region, verdict
from conffusion.report.writing import latex, markdown, write_csv
from conffusion.store import write_text

DIFFUSION = ("dm_sb", "dm_sba", "n_conffusion", "g_conffusion")
SLIGHTLY = 1.2  # "slightly exceeds the risk": by at most a fifth of alpha
_COUNTED = "counted, not estimated"

Draws: TypeAlias = Mapping[str, MethodDraws]
Outcome: TypeAlias = tuple[FloatArray, str]
"""(1 + n_bootstrap,) draws of the statistic, entry 0 on the test images, and what a reader should know of it."""


@dataclass(frozen=True)
class Claim:
    """One claim as data.

    Attributes:
        text: The claim in a sentence.
        statistic: Name of the statistic.
        region: Where the claim puts it.
        needs: Methods without which it cannot be tested.
        measure: From the draws of all methods of a task and protocol to the statistic.
        task: The task it is about; None = every task of the run.
        needs_others: Whether at least one method beside `needs` must be there.
    """

    text: str
    statistic: str
    region: Region
    needs: tuple[str, ...]
    measure: Callable[[Draws], Outcome]
    task: str | None = None
    needs_others: bool = False

    def is_testable(self, task: str, methods: set[str]) -> bool:
        """Whether a run with these methods can test it on this task."""
        n_needed = len(self.needs) + self.needs_others
        return self.task in (None, task) and methods >= set(self.needs) and len(methods) >= n_needed


@dataclass(frozen=True)
class _Resampling:
    n_bootstrap: int
    seed: int


def write_claims(
    folders: Sequence[Path | str], output_csv: Path | str, *, alpha: float, n_bootstrap: int, seed: int, replicates: int
) -> None:
    """Test the claims of the paper: one row per claim, task and protocol; also as .md and .tex for people.

    Claims about methods that are not in the run are left out.

    `value` is the statistic on all test images (mean over replicates), `ci_low` and `ci_high` the 95 % percentile
    interval of a bootstrap over test images (over groups where images share one; paired between methods; over
    replicates too where there are several, which with few of them still understates the randomness of training).
    `claimed` is the region in which the claim puts the statistic.

    The rule of the verdict: "holds" if the whole interval lies in the claimed region, "does not hold" if none of it
    does, "undecided" otherwise. Comparisons with several competitors take the best of them anew in every resample.
    Every row stands for itself: of many undecidable rows, one in twenty or so would look decided by chance.

    Columns: claim, task, protocol, statistic, claimed, value, ci_low, ci_high, verdict, note.

    Args:
        folders: results/<run>/<task>/<method_run>/<protocol>.
        output_csv: CSV file to write.
        alpha: Risk level of the run.
        n_bootstrap: Number of resamples.
        seed: Seed of the resamples.
        replicates: Fine-tuning runs per method.
    Raises:
        DataError: If a fine-tuned method has another number of replicates, or they were tested on different images.
    """
    results = load_results(folders)
    _check_replicates(results, replicates)
    rows = list(_rows(results, all_claims(alpha), _Resampling(n_bootstrap, seed)))
    columns = ["claim", "task", "protocol", "statistic", "claimed", "value", "ci_low", "ci_high", "verdict", "note"]
    table = pd.DataFrame(rows, columns=columns)
    remarks = [_COUNTED if name == PASSES else _replicate_note(replicates) for name in table["statistic"]]
    table["note"] = ["; ".join(filter(None, pair)) for pair in zip(table["note"], remarks, strict=True)]
    _write(table, Path(output_csv))


def _write(table: pd.DataFrame, output: Path) -> None:
    people = claims_for_people(claim_rows(table))
    remark = f"In parentheses: value, 95 % interval, remarks; {common_note(table)}."
    write_text(output.with_suffix(".md"), f"{markdown(people)}\n{remark}\n")
    write_text(output.with_suffix(".tex"), latex(people, remark))
    write_csv(table, output)


def all_claims(alpha: float) -> list[Claim]:
    """Every claim of the paper that a run can test, at risk level alpha."""
    narrower, at_most_alpha = Region(high=0), Region(high=alpha, includes_high=True)
    slightly = Region(low=alpha, high=SLIGHTLY * alpha, includes_high=True)
    n_conffusion, dm_sba = method_label("n_conffusion"), method_label("dm_sba")
    sr, inpainting = "super_resolution", "inpainting"
    return [
        Claim("Every method controls the risk", LARGEST_RISK, at_most_alpha, (), _largest_risk, sr, True),
        *(_narrower_than(method, "adm_uq") for method in DIFFUSION),
        Claim(f"{n_conffusion} and {dm_sba} have the narrowest intervals", SIZE, narrower, ("n_conffusion", "dm_sba"),
              _size_against_best("n_conffusion", "dm_sba"), sr, True),
        Claim(f"{dm_sba} has the most even size-stratified risk", SPREAD, narrower, ("dm_sba",), _spread_against_best,
              None, True),
        Claim(f"{n_conffusion} has the narrowest intervals", SIZE, narrower, ("n_conffusion",),
              _size_against_best("n_conffusion"), inpainting, True),
        Claim(f"{n_conffusion} slightly exceeds the risk", RISK, slightly, ("n_conffusion",),
              lambda draws: (draws["n_conffusion"].risk, ""), inpainting),
        *(_narrower_than("g_conffusion", other) for other in ("resnext", "resnest")),
        Claim("One forward pass does instead of J·T", PASSES, Region(low=1), ("dm_sb",), _passes_saved, None, True),
    ]  # fmt: skip


def _narrower_than(method: str, other: str) -> Claim:
    def measure(draws: Draws) -> Outcome:
        return draws[method].size / draws[other].size - 1, draws[method].label if METHODS[method].is_sampled else ""

    text = f"{method_label(method)} has narrower intervals than {method_label(other)}"
    return Claim(text, SIZE, Region(high=0), (method, other), measure)


def _largest_risk(draws: Draws) -> Outcome:
    risks = np.stack([method.risk for method in draws.values()])
    worst = list(draws.values())[int(risks[:, 0].argmax())]
    return risks.max(axis=0), f"largest: {worst.label}"


def _size_against_best(*methods: str) -> Callable[[Draws], Outcome]:
    """Size of the widest of `methods`, relative to the narrowest of the others."""

    def measure(draws: Draws) -> Outcome:
        best, label = _best_of_others(draws, methods, "size")
        return np.max([draws[method].size for method in methods], axis=0) / best - 1, label

    return measure


def _spread_against_best(draws: Draws) -> Outcome:
    best, label = _best_of_others(draws, ("dm_sba",), "spread")
    return draws["dm_sba"].spread - best, label


def _best_of_others(draws: Draws, methods: Sequence[str], name: str) -> tuple[FloatArray, str]:
    """Smallest value over the other methods in every resample, and who has it on the test images."""
    others = [draw for method, draw in draws.items() if method not in methods]
    values = np.stack([getattr(draw, name) for draw in others])
    return values.min(axis=0), f"best competitor: {others[int(values[:, 0].argmin())].label}"


def _passes_saved(draws: Draws) -> Outcome:
    """Passes of DM_SB over those of the costliest one-pass method: counted, so the interval is a point."""
    sampled, others = draws["dm_sb"], [draw for method, draw in draws.items() if not METHODS[method].is_sampled]
    ratio = sampled.passes / max(draw.passes for draw in others)
    seconds = sampled.seconds / max(draw.seconds for draw in others)
    detail = f"{sampled.label}: {sampled.passes:g} passes; time per image: {seconds:.3g} times"
    return np.full_like(sampled.size, ratio), detail


def _rows(
    results: Sequence[MethodResult], claims: Sequence[Claim], resampling: _Resampling
) -> Iterator[dict[str, Any]]:
    """Rows ordered by claim, task, protocol."""
    draws = {
        (task, protocol): resample_methods(method_runs, resampling.n_bootstrap, resampling.seed)
        for task in distinct(results, "task")
        for protocol in sorted(distinct(results, "protocol"), key=protocol_rank)
        if (method_runs := select(results, task=task, protocol=protocol))
    }
    for claim in claims:
        for (task, protocol), methods in draws.items():
            if claim.is_testable(task, set(methods)):
                yield {"claim": claim.text, "task": task, "protocol": protocol, **_test(claim, methods)}


def _test(claim: Claim, draws: Draws) -> dict[str, Any]:
    values, detail = claim.measure(draws)
    low, high = percentile_interval(values)
    return {
        "statistic": claim.statistic, "claimed": str(claim.region), "value": float(values[0]), "ci_low": low,
        "ci_high": high, "verdict": verdict(claim.region, low, high), "note": detail,
    }  # fmt: skip


def _check_replicates(results: Sequence[MethodResult], replicates: int) -> None:
    for task in distinct(results, "task"):
        method_runs = select(results, task=task)
        for method in distinct(method_runs, "method"):
            found = len({method_run.replicate for method_run in select(method_runs, method=method)})
            if found != replicates and not METHODS[method].is_sampled:
                raise DataError(
                    f"{task_label(task)}, {method}: {found} replicates were given, but replicates = {replicates}"
                )


def _replicate_note(replicates: int) -> str:
    if replicates == 1:
        return "one fine-tuning run: the interval does not cover training randomness"
    return f"test images and {replicates} fine-tuning runs resampled"
