"""The exact calibration beside the scans of peers: speed, memory, and width of the intervals.

Run from the root of the repository: `.venv/bin/python -m benchmarks.calibration speed`, `memory` or `width --runs ...`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from benchmarks.calibration_memory import Record, Table, measure_memory
from benchmarks.calibration_speed import measure_speed
from benchmarks.calibration_width import IMAGE_COUNTS, measure_width
from benchmarks.common import machine, positive, process_peak_mib
from conffusion.errors import ConffusionError

PARTS: Mapping[str, Callable[[argparse.Namespace], list[Table]]] = {
    "speed": measure_speed,
    "memory": measure_memory,
    "width": measure_width,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one part; 1 if a peer finds another lambda_hat for the same problem, or nothing could be measured."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    try:
        tables = PARTS[options.part](options)
    except ConffusionError as error:
        print(error, file=sys.stderr)
        return 1
    text = _markdown(options.part, tables)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        is_json = options.output.suffix == ".json"
        options.output.write_text(_json(options, tables) if is_json else text + "\n", encoding="utf-8")
    return 1 if any(row.get("agrees") == "no" for _, _, rows in tables for row in rows) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--output", type=Path, help="file for the tables: Markdown, or JSON by its ending")
    shared.add_argument("--threads", type=positive, default=1, help="CPU threads of torch (default: 1)")
    shared.add_argument("--seed", type=int, default=0, help="seed of made-up bounds, fits and draws (default: 0)")
    parser = argparse.ArgumentParser(description="Speed and memory of calibration, and width of its intervals.")
    parts = parser.add_subparsers(dest="part", required=True)
    _add_speed(parts.add_parser("speed", parents=[shared], help="time beside the scans of peers"))
    _add_memory(parts.add_parser("memory", parents=[shared], help="peak memory beyond the inputs"))
    _add_width(parts.add_parser("width", parents=[shared], help="width beside the paper's protocol, on finished runs"))
    options = parser.parse_args(arguments)
    if options.part == "speed":
        options.grid = (float(options.grid[0]), float(options.grid[1]), int(options.grid[2]))
    return options


def _add_speed(parser: argparse.ArgumentParser) -> None:
    _add_size(parser, "--size", (200, 3, 128, 128), "of the arrays")
    parser.add_argument("--rounds", type=positive, default=5, help="timed calls of each of ours (default: 5)")
    parser.add_argument(
        "--grid", nargs=3, default=(0.9, 1.3, 1000), metavar=("START", "STOP", "NUM"),
        help="of the official scan (default: 0.9 1.3 1000, the official one for sampled bounds of super-resolution)",
    )  # fmt: skip
    parser.add_argument("--scan-points", type=positive, help="lambdas that each peer tries (default: all of its scan)")
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--delta", type=float, default=0.1)


def _add_memory(parser: argparse.ArgumentParser) -> None:
    _add_size(parser, "--array-size", (200, 3, 128, 128), "in memory")
    _add_size(parser, "--size", (200, 3, 256, 256), "streamed from zarr; the goal is for 2000 3 256 256")
    parser.add_argument("--folder", type=Path, help="where the zarr store is made for a while (default: the system's)")
    parser.add_argument("--families", nargs="+", default=["multiplicative"], help="set families (default: %(default)s)")


def _add_width(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="folders of finished runs")
    parser.add_argument("--methods", nargs="+", default=["dm_sb", "n_conffusion"], help="default: %(default)s")
    counts = " ".join(map(str, IMAGE_COUNTS))
    parser.add_argument(
        "--n", nargs="+", type=positive, help=f"images, or groups, in a draw (default: {counts}; for groups, the run's"
        " own number and that of the pool)",
    )  # fmt: skip
    parser.add_argument("--draws", type=positive, default=2000, help="calibration sets (default: 2000)")
    parser.add_argument("--fit", action="store_true", help="choose the family where a run of older code has none")


def _add_size(parser: argparse.ArgumentParser, name: str, default: tuple[int, ...], what: str) -> None:
    shown = " ".join(map(str, default))
    parser.add_argument(
        name, nargs=4, type=positive, default=default, metavar=tuple("NCHW"), help=f"{what} (default: {shown})"
    )


def _markdown(part: str, tables: Sequence[Table]) -> str:
    """All tables, after what they depend on."""
    used = [f"- {key.replace('_', ' ')}: {value}" for key, value in machine(torch.device("cpu")).items()]
    parts = [f"# Calibration: {part}\n\n" + "\n".join(used)]
    for heading, text, rows in tables:
        shown = [{key.replace("_", " "): _cell(value) for key, value in row.items()} for row in rows]
        parts.append(f"## {heading}\n\n{text}\n\n{tabulate(shown, headers='keys', tablefmt='github', missingval='-')}")
    return "\n\n".join(parts)


def _cell(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def _json(options: argparse.Namespace, tables: Sequence[Table]) -> str:
    content: Record = {
        "benchmark": "calibration",
        "machine": machine(torch.device("cpu")),
        "settings": {key: value for key, value in vars(options).items() if key != "output"},
        "process_peak_mib": process_peak_mib(),
        "tables": [{"heading": heading, "text": text, "rows": rows} for heading, text, rows in tables],
    }
    return json.dumps(content, indent=1, default=str) + "\n"


if __name__ == "__main__":
    sys.exit(main())
