"""The report of a run: one self-contained page, verdicts first."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from conffusion.calibration.guarantee import Guarantee
from conffusion.config import read_yaml
from conffusion.errors import StoreError
from conffusion.methods.protocols import COMPARISON
from conffusion.report.readable import decimals, note, numeric_headings, readable, with_variants
from conffusion.report.results import protocol_rank, read_csv
from conffusion.report.verdict_table import SYMBOLS, claim_rows, common_note
from conffusion.report.verdicts import VERDICTS
from conffusion.store import write_text

_READING = {
    "examples": "Bounds are scaled by λ̂. Pixels that are not judged are faded. The interval size should be large where"
    " the error is.",
    "methods": "The narrower the intervals at the same risk, the more a method knows.",
    "stratified_risk": "The pixels of all test images are sorted by interval size into four quarters; bars above the"
    " line mean that such pixels are missed more often than α.",
    "position_risk": "Risk in 16 × 16 cells of the test images, over all images and channels, under the protocol"
    " guaranteed. The guarantee is about the mean over the image, not about each cell: red cells are missed more often"
    " than α, blue ones less, grey ones are not judged.",
    "risk_curve": "λ̂ is the smallest scale from which on the upper confidence bound of the risk stays at or below α.",
    "size_risk": "Error bars: 1.96 standard errors over test images (groups, where images share one).",
    "training": "After each validation the checkpoint competes under both protocols.",
    "bounds": "Rows of the protocol comparison in validity.csv: every bound applied to the same intervals, drawn as in"
    " the figure before. Only the first six bounds hold at any number of images; the others are there to compare.",
    "validity": "Each draw takes a calibration set with replacement from the pooled calibration and test images and"
    " compares the risk on the whole pool with α. Error bars: two standard errors.",
}


@dataclass(frozen=True)
class ReportTable:
    """A table as the page shows it: a heading, cells of text, which columns hold numbers, a remark."""

    title: str
    headings: list[str]
    numeric: list[bool]
    rows: list[list[str]]
    remark: str


@dataclass(frozen=True)
class ReportFigure:
    """A figure as the page shows it: a heading, an image inside the address, how to read it."""

    title: str
    address: str
    reading: str


def write_report(
    output: Path | str,
    *,
    config_path: Path | str,
    tables: Mapping[str, Path],
    figures: Mapping[str, Path],
    versions: Mapping[str, str],
) -> None:
    """Write the report: what is guaranteed, verdicts, tables, figures, configuration and versions, in one HTML file.

    The page loads nothing from elsewhere: figures are embedded, style sheet included, no scripts.

    Args:
        output: HTML file to write.
        config_path: results/<run>/config.yaml.
        tables: Heading to CSV file, in the order of the page. `claims.csv` gives the verdicts and `validity.csv` the
            check of the guarantee, whatever their headings.
        figures: Heading to PNG file. How to read a figure is told from the beginning of its file name: examples,
            methods, stratified_risk, position_risk, risk_curve, size_risk, training, validity, bounds.
        versions: Name to version of what made the run.
    Raises:
        StoreError: If a file is missing.
        ConfigError: If the configuration cannot be read.
    """
    config = read_yaml(config_path)
    frames = {title: (Path(path).stem, _shown(read_csv(path))) for title, path in tables.items()}
    by_stem = dict(frames.values())
    page = _template().render(
        run=config.get("run", "?"),
        alpha=config["calibration"]["alpha"],
        statement=str(Guarantee(config["calibration"]["alpha"], config["calibration"]["delta"])),
        delta=config["calibration"]["delta"],
        n_variants=config["sampling"]["n_variants"],
        replicates=config.get("replicates", 1),
        guarantee=_guarantee(by_stem.get("validity"), config["calibration"]["delta"]),
        claims=_claims(by_stem.get("claims")),
        tables=[
            _table(title, frame, config["sampling"]["n_variants"])
            for title, (stem, frame) in frames.items()
            if stem != "claims"
        ],
        figures=[_figure(title, Path(path)) for title, path in figures.items()],
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        versions=versions,
    )
    write_text(output, page)


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the rows that only compare bounds and families: the figure shows them."""
    return frame[frame["protocol"] != COMPARISON] if "protocol" in frame else frame


def _template() -> jinja2.Template:
    source = files("conffusion.report").joinpath("template.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)


def _table(title: str, frame: pd.DataFrame, n_variants: int) -> ReportTable:
    people = readable(with_variants(frame, n_variants))
    numeric = [name in numeric_headings(people) for name in people.columns]
    return ReportTable(title, list(people.columns), numeric, people.to_numpy().tolist(), note(frame))


def _figure(title: str, path: Path) -> ReportFigure:
    try:
        content = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); rerun the rule that draws it") from error
    reading = next((text for start, text in _READING.items() if path.stem.startswith(start)), "")
    return ReportFigure(title, f"data:image/png;base64,{content}", reading)


def violation_counts(validity: pd.DataFrame, delta: float) -> dict[str, dict[str, Any]]:
    """By protocol: rows, those whose violation rate is at most delta plus two standard errors, and the largest rate."""
    controlled = validity["violation_rate"] <= delta + 2 * validity["standard_error"]
    counts = {}
    for protocol in sorted(validity["protocol"].unique(), key=protocol_rank):
        rows = controlled[validity["protocol"] == protocol]
        worst = validity.loc[rows.index, "violation_rate"].max()
        counts[protocol] = {"controlled": int(rows.sum()), "rows": len(rows), "worst": decimals(3)(worst)}
    return counts


def _guarantee(validity: pd.DataFrame | None, delta: float) -> dict[str, Any] | None:
    """How often the risk was violated over the draws."""
    if validity is None:
        return None
    return {"counts": violation_counts(validity, delta), "n_draws": int(validity["n_draws"].min())}


def _claims(claims: pd.DataFrame | None) -> dict[str, Any] | None:
    if claims is None or claims.empty:
        return None
    tally = {name: int((claims["verdict"] == name).sum()) for name in VERDICTS}
    rows = claim_rows(claims)
    blocks = [list(block) for _, block in groupby(rows, key=lambda row: (row.claim, row.statistic, row.claimed))]
    return {
        "blocks": blocks,
        "protocols": list(rows[0].cells),
        "tally": tally,
        "symbols": SYMBOLS,
        "common": common_note(claims),
    }
