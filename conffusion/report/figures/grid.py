"""Panels of equal size placed by hand, in inches: images stay square and aligned whatever the titles."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Grid:
    """A grid of square panels.

    Attributes:
        n_rows: Number of rows.
        n_columns: Number of columns.
        cell: Side of a panel, in inches.
        gap: Distance between panels.
        left: Margin for row labels.
        right: Margin.
        top: Margin for titles.
        bottom: Margin for colour scales.
        rows_per_block: Rows that belong together; blocks stand further apart.
        block_gap: Additional distance between blocks.
    """

    n_rows: int
    n_columns: int
    cell: float = 1.35
    gap: float = 0.08
    left: float = 1.25
    right: float = 0.2
    top: float = 0.95
    bottom: float = 0.75
    rows_per_block: int = 1
    block_gap: float = 0.0

    @property
    def width(self) -> float:
        """Width of the figure, in inches."""
        return self.left + self.n_columns * (self.cell + self.gap) - self.gap + self.right

    @property
    def height(self) -> float:
        """Height of the figure, in inches."""
        blocks = (self.n_rows - 1) // self.rows_per_block
        return self.top + self.n_rows * (self.cell + self.gap) - self.gap + blocks * self.block_gap + self.bottom

    def panel(self, figure: Figure, row: int, column: int) -> Axes:
        """Axes of one panel."""
        return self.box(figure, self._x(column), self._y(row), self.cell, self.cell)

    def below(self, figure: Figure, column: int, n_columns: int = 1) -> Axes:
        """Axes for a colour scale under the last row, as wide as `n_columns` panels."""
        width = n_columns * (self.cell + self.gap) - self.gap
        return self.box(figure, self._x(column) + 0.04, self._y(self.n_rows - 1) + self.cell + 0.1, width - 0.08, 0.11)

    def box(self, figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
        """Axes with their upper left corner at (x, y) inches from that of the figure."""
        bottom = self.height - y - height
        return figure.add_axes((x / self.width, bottom / self.height, width / self.width, height / self.height))

    def write(self, figure: Figure, x: float, y: float, text: str, **options: object) -> None:
        """Write text at (x, y) inches from the upper left corner of the figure."""
        figure.text(x / self.width, 1 - y / self.height, text, **options)  # type: ignore[arg-type]

    def heading(self, figure: Figure, title: str, subtitle: str) -> None:
        """Write the figure's title and a line below it."""
        self.write(figure, 0.15, 0.14, title, va="top", size=13, weight="bold")
        self.write(figure, 0.15, 0.42, subtitle, va="top", size=9.5, color="#444444")

    def row_centre(self, row: int) -> float:
        """Distance of the middle of a row from the figure's upper edge, in inches."""
        return self._y(row) + self.cell / 2

    def _x(self, column: int) -> float:
        return self.left + column * (self.cell + self.gap)

    def _y(self, row: int) -> float:
        return self.top + row * (self.cell + self.gap) + row // self.rows_per_block * self.block_gap
