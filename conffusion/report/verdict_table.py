"""The claims as people read them: a row per claim and task, the verdicts of both protocols side by side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from conffusion.report.readable import MISSING, decimals
from conffusion.report.results import protocol_rank, task_label
from conffusion.report.verdicts import FAILS, FORMATS, HOLDS, UNDECIDED

SYMBOLS = {HOLDS: "✓", FAILS: "✗", UNDECIDED: "?"}


@dataclass(frozen=True)
class ClaimCell:
    """The verdict on a claim under one protocol.

    Attributes:
        verdict: "holds", "does not hold" or "undecided".
        value: The statistic, as text.
        interval: Its 95 % interval, as text; empty where it is a point.
        details: What else a reader should know, without what is common to all rows.
    """

    verdict: str
    value: str
    interval: str
    details: str

    def __str__(self) -> str:
        return f"{self.verdict} ({'; '.join(part for part in (self.value, self.interval, self.details) if part)})"


@dataclass(frozen=True)
class ClaimRow:
    """One claim on one task.

    Attributes:
        claim: The claim in a sentence.
        task: Label of the task.
        statistic: Name of the statistic.
        claimed: Where the claim puts it.
        cells: Protocol to verdict, `guaranteed` first; None where it could not be tested.
    """

    claim: str
    task: str
    statistic: str
    claimed: str
    cells: dict[str, ClaimCell | None]


def claim_rows(claims: pd.DataFrame) -> list[ClaimRow]:
    """Rows for people from the table `claims.csv`."""
    protocols = sorted(claims["protocol"].unique(), key=protocol_rank)
    keys, common = ["claim", "task", "statistic", "claimed"], common_note(claims)
    return [
        ClaimRow(
            claim, task_label(task), statistic, claimed,
            {name: _cell(rows[rows["protocol"] == name], common) for name in protocols},
        )
        for (claim, task, statistic, claimed), rows in claims.groupby(keys, sort=False)
    ]  # fmt: skip


def claims_for_people(rows: Sequence[ClaimRow]) -> pd.DataFrame:
    """The rows as a table of text."""
    return pd.DataFrame([
        {"Claim": row.claim, "Task": row.task, "Statistic": f"{row.statistic}, claimed: {row.claimed}",
         **{f"Protocol {name}": MISSING if cell is None else str(cell) for name, cell in row.cells.items()}}
        for row in rows
    ])  # fmt: skip


def common_note(claims: pd.DataFrame) -> str:
    """The remark that most rows share; empty if there is none."""
    frequent = Counter(_parts(claims)).most_common(1)
    return frequent[0][0] if frequent else ""


def _parts(claims: pd.DataFrame) -> list[str]:
    return [part for text in claims["note"].fillna("") for part in str(text).split("; ") if part]


def _cell(rows: pd.DataFrame, common: str) -> ClaimCell | None:
    if rows.empty:
        return None
    row = rows.iloc[0]
    text = FORMATS.get(row["statistic"], decimals(4))
    low, high = text(row["ci_low"]), text(row["ci_high"])
    details = "; ".join(part for part in _parts(rows) if part != common)
    return ClaimCell(row["verdict"], text(row["value"]), "" if low == high else f"{low} to {high}", details)
