"""The evaluated results of one method_run (a method, or one replicate of it) under one protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from conffusion.calibration.record import Calibration, read_record
from conffusion.core.layout import ResultFolder
from conffusion.errors import DataError, StoreError
from conffusion.methods.protocols import PROTOCOLS
from conffusion.methods.registry import METHODS
from conffusion.store import read_json
from conffusion.tasks import TASKS, build_task

N_STRATA = 4
_PER_IMAGE = [
    "image_id", "group", "risk", "interval_size",
    *(f"{name}_{k}" for name in ("misses", "pixels") for k in range(1, N_STRATA + 1)),
]  # fmt: skip


@dataclass(frozen=True)
class MethodResult:
    """What the stages wrote about one method_run under one protocol.

    Attributes:
        folder: results/<run>/<task>/<method_run>/<protocol>.
        task: Name of the task.
        method: Name of the method.
        replicate: 0 for the first fine-tuning run, 1 for the second, ...
        protocol: "paper" or "guaranteed".
        metrics: Content of metrics.json.
        calibration: The numbers of calibration.json, without the fitted shape.
        per_image: per_image.csv, one row per test image, with text in `image_id` and `group`.
    """

    folder: Path
    task: str
    method: str
    replicate: int
    protocol: str
    metrics: Mapping[str, Any]
    calibration: Calibration
    per_image: pd.DataFrame


def load_results(folders: Sequence[Path | str]) -> list[MethodResult]:
    """Results of the given folders, in the order task, method, replicate, protocol.

    Args:
        folders: Each results/<run>/<task>/<method_run>/<protocol>, holding metrics.json, calibration.json,
            per_image.csv.
    Raises:
        DataError: If there is none, or two hold the same method_run and protocol.
        StoreError: If a file is missing or unreadable; names it.
    """
    results = sorted((_load(Path(folder)) for folder in folders), key=sort_key)
    if not results:
        raise DataError("no result folders were given; expected results/<run>/<task>/<method_run>/<protocol>")
    for first, second in zip(results, results[1:], strict=False):
        if sort_key(first) == sort_key(second):
            raise DataError(f"{first.folder} and {second.folder} hold the same task, method, replicate and protocol")
    return results


def sort_key(result: MethodResult) -> tuple[Any, ...]:
    """Order of results: tasks and methods as registered, then replicates; `guaranteed` before `paper`."""
    return (
        _rank(result.task, TASKS), result.task, _rank(result.method, METHODS), result.method, result.replicate,
        protocol_rank(result.protocol),
    )  # fmt: skip


def protocol_rank(name: str) -> int:
    """Rank of a protocol: the one with a guarantee comes first."""
    return _rank(name, ("guaranteed", *PROTOCOLS))


def select(results: Sequence[MethodResult], **fields: Any) -> list[MethodResult]:
    """The results whose attributes have these values."""
    return [result for result in results if all(getattr(result, name) == value for name, value in fields.items())]


def distinct(results: Sequence[MethodResult], field: str) -> list[Any]:
    """Values of an attribute, each once, in order of appearance."""
    return list(dict.fromkeys(getattr(result, field) for result in results))


def task_label(name: str) -> str:
    """Name of a task for people."""
    return build_task(name).label if name in TASKS else name.replace("_", " ").capitalize()


def method_label(name: str, n_variants: float | None = None) -> str:
    """Name of a method for people; J stands beside a method whose bounds come from variants."""
    label = METHODS[name].label if name in METHODS else name
    return label if n_variants is None or pd.isna(n_variants) else f"{label} (J = {int(n_variants)})"


def sampled_label(method: str, n_variants: int) -> str:
    """Name of a method for people, with J where its bounds come from variants."""
    is_sampled = method in METHODS and METHODS[method].is_sampled
    return method_label(method, n_variants if is_sampled else None)


def result_label(result: MethodResult) -> str:
    """Name of the method of a result, with J where its bounds come from variants."""
    return method_label(result.method, result.metrics["n_variants"])


def read_csv(path: Path | str, *, text_columns: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV file of results.

    Raises:
        StoreError: If it is missing, empty or not a CSV; says what to do.
    """
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(text_columns, str))
    except (OSError, ValueError) as error:
        message = f"{path}: cannot be read as CSV ({error}); delete it and rerun the rule that makes it"
        raise StoreError(message) from error


def _load(folder: Path) -> MethodResult:
    files = ResultFolder(folder)
    metrics, path = read_json(files.metrics), files.per_image
    per_image = read_csv(path, text_columns=("image_id", "group"))
    missing = [name for name in _PER_IMAGE if name not in per_image]
    if missing or per_image.empty:
        lack = f"lacks {', '.join(missing)}" if missing else "holds no image"
        raise StoreError(f"{path}: {lack}; delete it and rerun the rule evaluate_method")
    return MethodResult(
        folder, metrics["task"], metrics["method"], int(metrics["replicate"]), metrics["protocol"], metrics,
        read_record(files.calibration, with_shape=False).calibration, per_image,
    )  # fmt: skip


def _rank(name: str, names: Any) -> int:
    order = list(names)
    return order.index(name) if name in order else len(order)
