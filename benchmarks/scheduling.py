"""What a finished run of the workflow spent on anything but computing: starting jobs, and waiting for the next one.

    .venv/bin/python -m benchmarks.scheduling --run results/default --cores 2 --seconds 1100

Wall time of every job comes from Snakemake's benchmarks, its computing from the job's own record (from the moment at
which its libraries are loaded to its end). What the cores did not spend on jobs at all is scheduling, and the end of
the run, when fewer jobs are left than cores.
"""

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="results/default", help="a run made in one go (default: %(default)s)")
    parser.add_argument("--cores", type=int, required=True, help="cores that Snakemake was given")
    parser.add_argument("--seconds", type=float, required=True, help="wall time of the whole run")
    options = parser.parse_args(arguments)
    wall, computing = job_seconds(Path(options.run))
    rows = [
        [rule, len(wall[rule]), sum(wall[rule]), sum(wall[rule]) - computing[rule]]
        for rule in sorted(wall, key=lambda rule: -sum(wall[rule]))
    ]
    print(tabulate(rows, ["rule", "jobs", "seconds", "of these starting up"], "github", floatfmt=".1f"))
    total, busy = options.cores * options.seconds, sum(row[2] for row in rows)
    starting = sum(row[3] for row in rows)
    print(f"\nstarting up: {starting / total:.1%} of the run; no job on a core: {1 - busy / total:.1%} of the run")
    return 0


def job_seconds(run: Path) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Wall times of the jobs of every rule, and the seconds that they computed."""
    wall: dict[str, list[float]] = defaultdict(list)
    computing: dict[str, float] = defaultdict(float)
    for file in (run / "benchmarks").rglob("*.tsv"):
        with file.open() as lines:
            seconds = float(next(csv.DictReader(lines, delimiter="\t"))["s"])
        wall[file.relative_to(run / "benchmarks").with_suffix("").parts[0]].append(seconds)
    for file in (run / "jobs").rglob("*.json"):
        record = json.loads(file.read_text())
        if "started" in record:
            computing[record["name"].split("/")[0]] += record["beat"] - record["started"]
    return wall, computing


if __name__ == "__main__":
    sys.exit(main())
