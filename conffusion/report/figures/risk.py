"""Figures of risk: by interval size, against the scale, and against size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from conffusion.core.layout import ResultFolder
from conffusion.errors import DataError
from conffusion.report.figures.style import (
    BLUE,
    GREY,
    LIMIT,
    QUARTILE_COLOURS,
    SIZE_UNIT,
    SKY,
    facets,
    horizontal_grid_only,
    limit_line,
    method_colour,
    method_marker,
    saved_figure,
)
from conffusion.report.results import (
    N_STRATA,
    MethodResult,
    distinct,
    load_results,
    protocol_rank,
    read_csv,
    result_label,
    select,
    task_label,
)

_HIGHEST = 2.5  # largest risk shown against the scale, in units of alpha
_QUARTILES = ("1st quarter of pixels (narrowest)", "2nd", "3rd", "4th (widest)")


def plot_stratified_risk(folders: Sequence[Path | str], output: Path | str, *, alpha: float) -> None:
    """Bars of the risk in each quartile of interval size, one panel per task and protocol.

    Bars are means over replicates; where there are several, a whisker spans their range.

    Args:
        folders: results/<run>/<task>/<method_run>/<protocol>.
        output: PNG or PDF file to write; both are written.
        alpha: Risk level, drawn as a line.
    """
    results = load_results(folders)
    tasks, protocols = _panels(results)
    n_methods = len(distinct(results, "method"))
    width, height = max(6.5, (1.5 + 0.78 * n_methods) * len(protocols)), 1.3 + 2.9 * len(tasks)
    with saved_figure(output, width, height) as figure:
        figure.suptitle("Size-stratified risk: the evener the bars, the better", x=0.01, ha="left")
        for row, task in zip(facets(figure, len(tasks), len(protocols), sharey="row"), tasks, strict=True):
            for panel, protocol in zip(row, protocols, strict=True):
                _draw_strata(panel, select(results, task=task, protocol=protocol))
                limit_line(panel, alpha)
                panel.set_title(f"{task_label(task)}, protocol {protocol}")
            row[0].set_ylabel("risk (share of pixels missed)")
            horizontal_grid_only(row)
        handles = [Patch(color=colour, label=name) for colour, name in zip(QUARTILE_COLOURS, _QUARTILES, strict=True)]
        _legend(figure, [*handles, _alpha_handle(alpha)], n_columns=5)


def plot_size_risk(folders: Sequence[Path | str], output: Path | str, *, alpha: float) -> None:
    """Mean interval size against test risk, one marker per method, one panel per task and protocol.

    Error bars: 1.96 standard errors over test images (groups where images share one); means over replicates.

    Args:
        folders: results/<run>/<task>/<method_run>/<protocol>.
        output: PNG or PDF file to write; both are written.
        alpha: Risk level, drawn as a line.
    """
    results = load_results(folders)
    tasks, protocols = _panels(results)
    with saved_figure(output, max(6.5, 4.6 * len(protocols)), 1.2 + 3.3 * len(tasks)) as figure:
        figure.suptitle("Size against risk: the best methods stand left, below the line", x=0.01, ha="left")
        grid = facets(figure, len(tasks), len(protocols), sharex="row", sharey="row")
        for row, task in zip(grid, tasks, strict=True):
            for panel, protocol in zip(row, protocols, strict=True):
                _draw_size_risk(panel, select(results, task=task, protocol=protocol))
                limit_line(panel, alpha)
                panel.set_title(f"{task_label(task)}, protocol {protocol}")
                panel.set_xlabel(f"mean interval size ({SIZE_UNIT})")
            row[0].set_ylabel("test risk (share of pixels missed)")
        _legend(figure, [*_method_handles(results), _alpha_handle(alpha)], n_columns=4)


def plot_risk_curve(folders: Sequence[Path | str], output: Path | str, *, alpha: float) -> None:
    """Risk against lambda with its upper confidence bound and lambda_hat, one panel per method.

    Args:
        folders: results/<run>/<task>/<method_run>/<protocol> of one task and protocol, with curve.csv; only the first
            replicate of each method is drawn.
        output: PNG or PDF file to write; both are written.
        alpha: Risk level, drawn as a line.
    Raises:
        DataError: If the folders belong to several tasks or protocols.
    """
    results = [result for result in load_results(folders) if result.replicate == 0]
    if len({(result.task, result.protocol) for result in results}) != 1:
        raise DataError(f"{output}: needs the first replicates of one task and one protocol")
    n_columns = min(4, len(results))
    n_rows = -(-len(results) // n_columns)
    with saved_figure(output, 1.0 + 2.7 * max(3, n_columns), 1.4 + 2.4 * n_rows) as figure:
        title = f"{task_label(results[0].task)}, protocol {results[0].protocol}: the scale λ̂ brings the bound under α"
        figure.suptitle(title, x=0.01, ha="left")
        panels = [panel for row in facets(figure, n_rows, n_columns, sharey=True) for panel in row]
        for panel, result in zip(panels, results, strict=False):
            _draw_curve(panel, result, alpha)
        for panel in panels[len(results) :]:
            panel.set_visible(False)
        figure.supylabel("risk (share of pixels missed)", size=10)
        _legend(figure, _curve_handles(alpha), n_columns=5)


def _draw_strata(axes: Axes, method_runs: Sequence[MethodResult]) -> None:
    methods = distinct(method_runs, "method")
    for place, method in enumerate(methods):
        risks = np.array(
            [method_run.metrics["stratified_risk"] for method_run in select(method_runs, method=method)],
            dtype=np.float64,
        )
        positions = place + (np.arange(N_STRATA) - (N_STRATA - 1) / 2) * 0.2
        mean = risks.mean(axis=0)
        axes.bar(positions, mean, width=0.19, color=QUARTILE_COLOURS, edgecolor="white", linewidth=0.4)
        if len(risks) > 1:
            axes.errorbar(positions, mean, _range_around(risks), fmt="none", ecolor=GREY, elinewidth=1, capsize=1.5)
    axes.set_xticks(range(len(methods)), _tick_labels(method_runs, methods))


def _tick_labels(method_runs: Sequence[MethodResult], methods: Sequence[str]) -> list[str]:
    labels = [result_label(select(method_runs, method=method)[0]) for method in methods]
    return [label.replace("-", "-\n").replace(" (", "\n(") for label in labels]


def _range_around(values: np.ndarray) -> np.ndarray:
    """(2, ...) distances of the smallest and the largest row from the mean."""
    mean = values.mean(axis=0)
    return np.stack([mean - values.min(axis=0), values.max(axis=0) - mean])


def _draw_size_risk(axes: Axes, method_runs: Sequence[MethodResult]) -> None:
    for method in distinct(method_runs, "method"):
        images = pd.concat([method_run.per_image for method_run in select(method_runs, method=method)])
        (size, size_error), (risk, risk_error) = (clustered_mean(images, name) for name in ("interval_size", "risk"))
        axes.errorbar(
            size, risk, xerr=1.96 * size_error, yerr=1.96 * risk_error, fmt=method_marker(method), elinewidth=1,
            color=method_colour(method), markersize=9, markeredgecolor="white", markeredgewidth=0.5,
        )  # fmt: skip


def clustered_mean(images: pd.DataFrame, name: str) -> tuple[float, float]:
    """Mean of a column over images and its standard error, images of a group taken as dependent; NaN for one group."""
    mean = images[name].mean()
    residuals = (images[name] - mean).groupby(images["group"]).sum().to_numpy()
    n_groups = len(residuals)
    if n_groups < 2:
        return float(mean), float("nan")
    return float(mean), float(np.sqrt((residuals**2).sum() * n_groups / (n_groups - 1)) / len(images))


def _draw_curve(axes: Axes, result: MethodResult, alpha: float) -> None:
    curve = read_csv(ResultFolder(result.folder).curve)
    scale, risk, bound = (curve[name] for name in ("lambda", "calibration_risk", "calibration_risk_ucb"))
    axes.fill_between(scale, risk, bound, color=SKY, alpha=0.3, linewidth=0)
    axes.plot(scale, bound, color=SKY, linewidth=1.4)
    axes.plot(scale, risk, color=BLUE)
    axes.plot(scale, curve["test_risk"], color=GREY, linestyle=(0, (1.5, 1.2)), linewidth=1.6)
    limit_line(axes, alpha)
    lambda_hat = result.calibration.lambda_hat
    axes.axvline(lambda_hat, color="black", linewidth=1)
    axes.plot([lambda_hat], [alpha], marker="o", color="black", markersize=5, clip_on=False, zorder=4)
    axes.set_title(f"{result_label(result)}\nλ̂ = {lambda_hat:.3f}")
    axes.set_xlabel("scale λ")
    axes.set_ylim(0, _HIGHEST * alpha)
    axes.set_xlim(*_scales_shown(scale, risk, lambda_hat, alpha))
    axes.locator_params(axis="x", nbins=4)


def _scales_shown(scale: pd.Series, risk: pd.Series, lambda_hat: float, alpha: float) -> tuple[float, float]:
    """Scales at which the risk is neither far above nor far below alpha, with a margin; lambda_hat among them."""
    near = scale[(risk <= _HIGHEST * alpha) & (risk >= 0.5 * alpha)]
    low, high = min([lambda_hat, *near]), max([lambda_hat, *near])
    margin = 0.03 * (high - low) or 0.1
    return low - margin, high + margin


def _curve_handles(alpha: float) -> list[Line2D]:
    return [
        Line2D([], [], color=BLUE, label="calibration risk"),
        Line2D([], [], color=SKY, linewidth=5, alpha=0.6, label="up to its upper bound"),
        Line2D([], [], color=GREY, linestyle=(0, (1.5, 1.2)), label="test risk"),
        Line2D([], [], color="black", linewidth=1, marker="o", markersize=5, label="λ̂"),
        _alpha_handle(alpha),
    ]


def _method_handles(results: Sequence[MethodResult]) -> list[Line2D]:
    methods = {result.method: result_label(result) for result in results}
    return [
        Line2D([], [], color=method_colour(method), marker=method_marker(method), linestyle="none", label=label)
        for method, label in methods.items()
    ]


def _alpha_handle(alpha: float) -> Line2D:
    return Line2D([], [], color=LIMIT, linewidth=1.3, linestyle=(0, (5, 2)), label=f"α = {alpha:g}")


def _panels(results: Sequence[MethodResult]) -> tuple[list[str], list[str]]:
    return distinct(results, "task"), sorted(distinct(results, "protocol"), key=protocol_rank)


def _legend(figure: Figure, handles: Sequence[Line2D | Patch], n_columns: int) -> None:
    figure.legend(handles=list(handles), loc="outside lower center", ncols=min(n_columns, len(handles)))
