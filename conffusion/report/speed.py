"""What a run cost and how fast its methods are: one table from benchmark files and from what the jobs left."""

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from conffusion.core.layout import RunLayout
from conffusion.errors import StoreError
from conffusion.methods.protocols import PROTOCOLS
from conffusion.methods.registry import METHODS
from conffusion.report.results import load_results, read_csv
from conffusion.report.tables import method_rows
from conffusion.report.writing import write_table
from conffusion.store import read_json
from conffusion.tasks import TASKS

_NOTHING = (float("nan"), float("nan"))
_PER_METHOD = ("n_variants", "forward_passes_per_image", "seconds_per_image")
_BOUNDS_ON = ("selection", "calibration", "test")


@dataclass(frozen=True)
class RunFolder:
    """A run whose cost is told.

    Attributes:
        path: results/<run>.
        batch_size: Images of a fine-tuning step.
        prior_images: Images that the training of each prior sees: steps times batch size.
        gpus: Number of GPUs that each job held, by the name of its benchmark file below benchmarks/, without suffix.
    """

    path: Path
    batch_size: int
    prior_images: Mapping[str, int]
    gpus: Mapping[str, int]


def write_speed_table(folders: Sequence[Path | str], run: RunFolder, output_csv: Path | str) -> None:
    """Write what an image costs with every method, and what every rule of the run did; also as .md and .tex.

    First come the rules that give bounds, sample_variants and predict_bounds, by task and method, with what an image
    costs without start-up: n_variants, forward_passes_per_image, seconds_per_image (means over protocols and
    replicates). Then all other rules, the costliest first, by task and method where they run networks. For every row:
    rule, task, method, jobs, images (that went through the jobs, each as often as it did), forward_passes (of single
    images), images_per_second (of the jobs' wall time, start-up included), wall_seconds (sum), longest_seconds,
    cpu_seconds (sum), gpu_seconds (wall time times GPUs held; 0 on the CPU), max_memory_mb (largest resident set).
    Numbers that cannot be told are empty.

    Args:
        folders: results/<run>/<task>/<method_run>/<protocol>.
        run: Where the jobs left their traces.
        output_csv: CSV file to write.
    """
    keys = ["rule", "task", "method"]
    methods = method_rows(load_results(folders)).groupby(keys[1:], sort=False)[list(_PER_METHOD)].mean().reset_index()
    methods["rule"] = [
        "sample_variants" if method in METHODS and METHODS[method].is_sampled else "predict_bounds"
        for method in methods["method"]
    ]
    costs = job_costs(run).merge(methods, on=keys, how="outer")
    costs = costs[[*keys, *_PER_METHOD, *costs.columns.difference([*keys, *_PER_METHOD], sort=False)]]
    places = sorted(range(len(costs)), key=_order(costs).__getitem__)
    write_table(costs.iloc[places].replace({"task": {"": None}, "method": {"": None}}), output_csv)


def job_costs(run: RunFolder) -> pd.DataFrame:
    """The columns of `write_speed_table` up to max_memory_mb; task and method are "" where a row has none."""
    traces = _Traces(run)
    rows = [traces.row(file) for file in sorted(RunLayout(run.path).benchmarks.rglob("*.tsv"))]
    columns = ["rule", "task", "method", "images", "passes", "gpu", "s", "cpu_time", "max_rss"]
    groups = pd.DataFrame(rows, columns=columns).groupby(columns[:3], sort=False)

    def total(values: "pd.Series[float]") -> float:
        return float(values.sum(skipna=False))

    table = groups.agg(
        jobs=("s", "size"), images=("images", total), forward_passes=("passes", total), wall_seconds=("s", "sum"),
        longest_seconds=("s", "max"), cpu_seconds=("cpu_time", "sum"), gpu_seconds=("gpu", total),
        max_memory_mb=("max_rss", "max"),
    ).reset_index()  # fmt: skip
    table.insert(6, "images_per_second", table["images"] / table["wall_seconds"])
    return table.astype({"jobs": "Int64", "images": "Int64", "forward_passes": "Int64"})


class _Traces:
    """What single jobs did, from the files that they left."""

    def __init__(self, run: RunFolder) -> None:
        self._run, self._layout = run, RunLayout(run.path)
        self._counts: Mapping[str, Callable[[str, str], tuple[float, float]]] = MappingProxyType(
            {
                "train_prior": self._pretraining,
                "sample_variants": self._sampling,
                "extract_bounds": self._extraction,
                "finetune_method": self._finetuning,
                "predict_bounds": self._prediction,
                "trace_candidates": self._tracing,
            }
        )

    def row(self, file: Path) -> dict[str, Any]:
        """One job: its row of the table, what it did and what it cost; seconds and MB."""
        name = file.relative_to(self._layout.benchmarks).with_suffix("").as_posix()
        rule, _, wildcards = name.partition("/")
        task = next((task for task in TASKS if wildcards.startswith(f"{task}-")), "")
        rest = wildcards.removeprefix(f"{task}-")
        with file.open(newline="") as lines:
            measured = next(csv.DictReader(lines, delimiter="\t"))
        cost = {key: _number(measured.get(key)) for key in ("s", "cpu_time", "max_rss")}
        gpu = self._run.gpus.get(name, float("nan")) * cost["s"]
        if rule not in self._counts:
            return {"rule": rule, "task": "", "method": "", "images": None, "passes": None, "gpu": gpu, **cost}
        try:
            images, passes = self._counts[rule](task, rest)
        except (StoreError, KeyError, TypeError, ValueError):  # the file that says it is gone, or of an older version
            images, passes = _NOTHING
        method = "dm_sb" if rule in ("sample_variants", "extract_bounds") else _method_of(rest)
        return {"rule": rule, "task": task, "method": method, "images": images, "passes": passes, "gpu": gpu, **cost}

    @cached_property
    def _sizes(self) -> Mapping[str, int]:
        """Images of every split."""
        return Counter(read_csv(self._layout.splits, text_columns=("split",))["split"])

    def _pretraining(self, _: str, prior: str) -> tuple[float, float]:
        n_images = self._run.prior_images[prior]
        return n_images, n_images

    def _sampling(self, task: str, shard: str) -> tuple[float, float]:
        split, k, _, n_shards = shard.split("-")
        n_images = (int(k) + 1) * self._sizes[split] // int(n_shards) - int(k) * self._sizes[split] // int(n_shards)
        manifest = read_json(self._layout.variants(task, split, k, n_shards))
        return n_images, n_images * manifest["attributes"]["forward_passes_per_image"]

    def _extraction(self, task: str, split: str) -> tuple[float, float]:
        return self._sizes[split], 0

    def _finetuning(self, task: str, method_run: str) -> tuple[float, float]:
        """Training steps, and the scoring of competing checkpoints on the split of each protocol."""
        curve = self._curve(task, method_run)
        scored = sum(self._sizes[PROTOCOLS[protocol].selected_on] for protocol in curve["protocol"].dropna())
        n_images = int(curve["step"].max()) * self._run.batch_size + scored
        return n_images, n_images

    def _prediction(self, task: str, method_run: str) -> tuple[float, float]:
        n_images = len(PROTOCOLS) * sum(self._sizes[split] for split in _BOUNDS_ON)
        return n_images, n_images

    def _tracing(self, task: str, method_run: str) -> tuple[float, float]:
        curve = self._curve(task, method_run)
        n_checkpoints = curve.loc[curve["protocol"].notna(), "step"].nunique()
        n_images = n_checkpoints * (self._sizes["calibration"] + self._sizes["test"])
        return n_images, n_images

    def _curve(self, task: str, method_run: str) -> pd.DataFrame:
        return read_csv(self._layout.training_curve(task, method_run))


def _order(costs: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Sort keys of the rows: those that give bounds by task and method, then rules by their wall time."""
    rank = {name: place for place, name in enumerate([*TASKS, *METHODS])}
    totals = costs.groupby("rule")["wall_seconds"].sum()
    keys = []
    for row in costs.itertuples():
        place = rank.get(row.task, -1), rank.get(row.method, -1)
        gives_bounds = not pd.isna(row.seconds_per_image)
        keys.append(
            (not gives_bounds, 0 if gives_bounds else -totals[row.rule], "" if gives_bounds else row.rule, place)
        )
    return keys


def _method_of(method_run: str) -> str:
    name = method_run.partition("-r")[0]
    return name if name in METHODS else ""


def _number(text: str | None) -> float:
    """A measured number; NaN where Snakemake could not tell ("-", "NA")."""
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
