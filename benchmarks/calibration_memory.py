"""Peak memory of `calibrate` beyond its inputs, in fresh processes; and the made-up bounds that it works on.

No torch here, so that the processes which are measured hold little else.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from conffusion.calibration import Family, LabelledBounds, calibrate, fit_family
from conffusion.core.arrays import FloatArray
from conffusion.core.choices import PLAIN_FAMILIES
from conffusion.core.randomness import keyed_generator
from conffusion.errors import CalibrationError

Record = dict[str, Any]
Table = tuple[str, str, list[Record]]  # heading, text, rows
Shape = tuple[int, int, int, int]

MOST_BOUND_ARRAYS = 1.5  # goal: memory beyond inputs in memory, in arrays of one bound
MOST_STREAMED = 10**9  # goal: bytes beyond the open store, at GOAL_SIZE
GOAL_SIZE = (2000, 3, 256, 256)
REQUESTS: dict[str, Record] = {
    "official, pixel": {"ucb": "official", "unit": "pixel"},
    "star, image": {"ucb": "star", "unit": "image"},
    "wsr, image": {"ucb": "wsr", "unit": "image"},
}
TEXT = f"""\
Goals: at most {MOST_BOUND_ARRAYS} x one bound array beyond arrays in memory; less than 1 GB beyond a zarr store of
{" x ".join(map(str, GOAL_SIZE))}, which says little at other sizes. `beyond` is the peak of a fresh process less the
peak of another one that only imports the libraries and holds (or opens) the same inputs."""
_CELL = 8  # pixels of one colour, each way
_TOO_NARROW = (0.01, 0.02)  # share of pixels whose intervals have only this share of their width
_N_FITTED = 16  # images to which a family with a shape is fitted
_ROOT = Path(__file__).resolve().parents[1]


def made_up_bounds(shape: Shape, seed: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(lower, upper, target) float32 in [0, 1] like those of a trained model: some 15 % of the pixels are missed.

    Widths and errors vary between pixels and between images, so that some images miss much more than others, and a few
    intervals are far too narrow.
    """
    arrays = tuple(np.empty(shape, dtype=np.float32) for _ in range(3))
    for index in range(shape[0]):
        for array, values in zip(arrays, _image(shape[1:], seed, index), strict=True):
            array[index] = values
    lower, upper, target = arrays
    return lower, upper, target


def _image(shape: tuple[int, ...], seed: int, index: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """One image, so that making many holds little more than the result."""
    generator = keyed_generator("made-up bounds", seed, index)
    n_channels, height, width = shape
    cells = generator.uniform(0.25, 0.75, (n_channels, -(-height // _CELL), -(-width // _CELL))).astype(np.float32)
    target = cells.repeat(_CELL, axis=1).repeat(_CELL, axis=2)[:, :height, :width]
    half_width = 0.08 * generator.uniform(0.7, 1.4) * (0.5 + generator.random(shape, dtype=np.float32))
    spread = generator.uniform(0.5, 0.85)
    centre = target + half_width * spread * generator.standard_normal(shape, dtype=np.float32)
    half_width[generator.random(shape, dtype=np.float32) < _TOO_NARROW[0]] *= _TOO_NARROW[1]
    return (centre - half_width).clip(0.0, 1.0), (centre + half_width).clip(0.0, 1.0), target


def measure_memory(options: argparse.Namespace) -> list[Table]:
    """Both kinds of inputs, every protocol.

    Raises:
        CalibrationError: If a measured process fails, as with too few images for any scale.
    """
    families = [_fitted(name, tuple(options.size), options.seed) for name in options.families]
    in_memory = _rows("in memory", tuple(options.array_size), None, families, options)
    with _store(tuple(options.size), options) as path:
        streamed = _rows("zarr", tuple(options.size), path, families, options)
    return [("Memory", TEXT, in_memory + streamed)]


def _fitted(name: str, size: Shape, seed: int) -> Family:
    """The family, fitted to a few other images where it has a shape."""
    if name in PLAIN_FAMILIES:
        return Family(name)
    images = LabelledBounds(*made_up_bounds((_N_FITTED, *size[1:]), seed + 1))
    return fit_family(name, images, level=0.08, seed=seed)


def _rows(
    inputs: str, shape: Shape, store: Path | None, families: list[Family], options: argparse.Namespace
) -> list[Record]:
    """One row per family and protocol."""
    given: Record = {"shape": shape, "seed": options.seed, "store": None if store is None else str(store)}
    baseline, array = _peak_of(given), 4 * int(np.prod(shape))
    rows = []
    for family in families:
        if store is None and family.shape is not None and shape[1:] != tuple(options.size)[1:]:
            continue  # its shape was fitted to images of the other size
        for name, request in REQUESTS.items():
            peak = _peak_of({**given, "request": {"alpha": 0.1, "delta": 0.1, **request}, "family": family.to_dict()})
            beyond = peak - baseline
            met = beyond <= MOST_BOUND_ARRAYS * array if store is None else beyond < MOST_STREAMED
            rows.append(
                {
                    "inputs": inputs,
                    "size": " x ".join(map(str, shape)),
                    "bound": name,
                    "family": family.name,
                    "one_bound_array_mib": array / 2**20,
                    "with_inputs_only_mib": baseline / 2**20,
                    "peak_mib": peak / 2**20,
                    "beyond_mib": beyond / 2**20,
                    "beyond_in_bound_arrays": beyond / array,
                    "goal_met": "yes" if met else "no",
                }
            )
    return rows


@contextmanager
def _store(shape: Shape, options: argparse.Namespace) -> Iterator[Path]:
    """A zarr group of made-up bounds, one chunk per image, that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="conffusion-benchmark-", dir=options.folder) as folder:
        path = Path(folder) / "bounds.zarr"
        group = zarr.create_group(str(path))
        arrays = [
            group.create_array(name, shape=shape, dtype="float32", chunks=(1, *shape[1:]), compressors=None)
            for name in ("lower", "upper", "target")
        ]
        for index in range(shape[0]):
            for array, values in zip(arrays, _image(shape[1:], options.seed, index), strict=True):
                array[index] = values
        yield path


def _peak_of(task: Record) -> int:
    """Peak bytes of a fresh process that does one task; CalibrationError if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.calibration_memory"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        cwd=_ROOT,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise CalibrationError(f"the measured process failed: {last[0]}")
    return int(done.stdout)


def _child(task: Record) -> int:
    """Hold the inputs and, where there is a request, calibrate; peak bytes of this process."""
    inputs: Any
    if task["store"] is None:
        inputs = made_up_bounds(tuple(task["shape"]), task["seed"])
    else:
        group = zarr.open_group(task["store"], mode="r")
        inputs = [group[name] for name in ("lower", "upper", "target")]
    if "request" in task:
        calibrate(*inputs, scaling=Family.from_dict(task["family"]), **task["request"])
    return _peak()


def _peak() -> int:
    """Largest resident memory of this process, in bytes.

    On Linux ru_maxrss also counts the process that started this one, up to the start; VmHWM is the same counter
    without that.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(_child(json.load(sys.stdin)))
