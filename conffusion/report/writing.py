"""A table as CSV for machines, and as Markdown and LaTeX for people."""

from pathlib import Path

import pandas as pd
from tabulate import tabulate

from conffusion.report.readable import note, numeric_headings, readable
from conffusion.store import atomic_path, write_text

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$",
    "\u202f": r"\,", "λ̂": r"$\hat\lambda$", "λ": r"$\lambda$", "α": r"$\alpha$", "δ": r"$\delta$",
    "≤": r"$\le$", ">": "$>$", "<": "$<$",
}  # fmt: skip


def write_csv(table: pd.DataFrame, output: Path | str) -> None:
    """Write a table as CSV, atomically."""
    with atomic_path(output) as temporary:
        table.to_csv(temporary, index=False)


def write_table(table: pd.DataFrame, output_csv: Path | str) -> None:
    """Write `<stem>.csv` with every column, and `<stem>.md` and `<stem>.tex` as people read them."""
    output = Path(output_csv)
    people, remark = readable(table), note(table)
    write_text(output.with_suffix(".md"), markdown(people) + (f"\n{remark}\n" if remark else ""))
    write_text(output.with_suffix(".tex"), latex(people, remark))
    write_csv(table, output)


def markdown(table: pd.DataFrame) -> str:
    """A table of text as GitHub's Markdown."""
    return (
        tabulate(
            table.to_numpy().tolist(), headers=list(table.columns), tablefmt="pipe", disable_numparse=True,
            colalign=["right" if name in numeric_headings(table) else "left" for name in table.columns],
        )
        + "\n"
    )  # fmt: skip


def latex(table: pd.DataFrame, remark: str = "") -> str:
    """A table of text as LaTeX, with the rules of the package booktabs; to be included as a file."""
    columns = "".join("r" if name in numeric_headings(table) else "l" for name in table.columns)
    rows = [_latex_row(list(table.columns)), r"\midrule", *(_latex_row(row) for row in table.to_numpy().tolist())]
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([f"% {remark}"] * bool(remark) + ["% \\usepackage{booktabs}", *lines]) + "\n"


def _latex_row(cells: list[str]) -> str:
    return " & ".join(_escape(cell) for cell in cells) + r" \\"


def _escape(text: str) -> str:
    text = text.replace("λ̂", "\0")  # two code points: a letter and its hat
    return "".join(_LATEX["λ̂"] if letter == "\0" else _LATEX.get(letter, letter) for letter in text)
