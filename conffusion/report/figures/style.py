"""The style of every figure: colours, markers, fonts, sizes, and how a figure is saved."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from conffusion.store import atomic_path

# Okabe and Ito 2008, without yellow, which is too light on white.
BLACK, GREY = "#000000", "#6b6b6b"
ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
METHOD_COLOURS: Mapping[str, str] = {
    "adm_uq": BLACK, "dm_sb": SKY, "dm_sba": BLUE, "n_conffusion": VERMILION, "g_conffusion": ORANGE,
    "resnext": GREEN, "resnest": PURPLE,
}  # fmt: skip
METHOD_MARKERS: Mapping[str, str] = {
    "adm_uq": "s", "dm_sb": "o", "dm_sba": "D", "n_conffusion": "^", "g_conffusion": "v", "resnext": "P",
    "resnest": "X",
}  # fmt: skip
PROTOCOL_COLOURS: Mapping[str, str] = {"guaranteed": BLUE, "paper": ORANGE}
PROTOCOL_MARKERS: Mapping[str, str] = {"guaranteed": "o", "paper": "s"}
QUARTILE_COLOURS = ("#c6dbef", "#73b2d8", "#2f7fbc", "#08458a")  # narrow to wide: one hue, light to dark
LIMIT = VERMILION  # lines that must not be crossed: alpha, delta
HEAT_MAP = "viridis"
CONTEXT_FADE = 0.72  # share of white over pixels that are not judged

SIZE_UNIT = "units of the [0, 1] pixel range"
_DPI = 160
_RC: Mapping[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 10.5, "axes.labelsize": 10, "legend.fontsize": 9.5,
    "xtick.labelsize": 9, "ytick.labelsize": 9, "figure.titlesize": 13, "figure.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e3e3e3", "grid.linewidth": 0.7,
    "axes.formatter.useoffset": False, "legend.frameon": False, "lines.linewidth": 1.8,
    "image.interpolation": "nearest", "pdf.fonttype": 42,
}  # fmt: skip


@contextmanager
def saved_figure(output: Path | str, width: float, height: float, layout: Any = "constrained") -> Iterator[Figure]:
    """Yield an empty figure; when the block succeeds, write it as `<stem>.png` and `<stem>.pdf`, atomically.

    Uses no pyplot, so no window and no global figure; settings of matplotlib are the same afterwards as before. The
    same drawing gives the same bytes: files carry no dates.

    Args:
        output: File to write, ending in .png or .pdf; the other is written beside it.
        width: In inches.
        height: In inches.
        layout: Layout engine; "none" where axes are placed by hand.
    """
    with matplotlib.rc_context(_settings()):
        figure = Figure(figsize=(width, height), dpi=_DPI, layout=layout)
        yield figure
        for suffix, metadata in (
            (".png", {"Software": None}),
            (".pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
        ):
            with atomic_path(Path(output).with_suffix(suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], metadata=metadata, dpi=_DPI)


def _settings() -> Any:
    """matplotlib's defaults with ours laid over them, whatever a user's matplotlibrc says."""
    return {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"} | dict(_RC)


def method_colour(method: str) -> str:
    """Colour of a method; grey for one that has none."""
    return METHOD_COLOURS.get(method, GREY)


def method_marker(method: str) -> str:
    """Marker of a method, so that colour is never the only difference."""
    return METHOD_MARKERS.get(method, "*")


def facets(figure: Figure, n_rows: int, n_columns: int, **options: Any) -> list[list[Axes]]:
    """Axes of a grid of panels as nested lists, also for one row or column."""
    grid = figure.subplots(n_rows, n_columns, squeeze=False, **options)
    return [list(row) for row in grid]


def limit_line(axes: Axes, value: float, *, vertical: bool = False) -> Line2D:
    """Draw the line that risk or violation rate must not cross."""
    draw = axes.axvline if vertical else axes.axhline
    return draw(value, color=LIMIT, linewidth=1.3, linestyle=(0, (5, 2)), zorder=3)


def horizontal_grid_only(axes: Sequence[Axes]) -> None:
    """Remove vertical grid lines, which say nothing between categories."""
    for panel in axes:
        panel.grid(axis="x", visible=False)
