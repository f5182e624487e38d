"""What one image costs with one pass, and with DM_SB, whose variants take J x T passes of the same network.

`.venv/bin/python -m benchmarks.predict --run results/default --output predict.json`, after `make all`. One
super-resolved image of 256x256 pixels, in tiles of the size that the networks know. All sides are called in turn, round
by round, and ratios are those of the processor time within a round, which other jobs on the machine hardly move.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from benchmarks.calibration_speed import Times
from benchmarks.common import Record, machine, positive, precision_of
from conffusion.contrib.onnx import export_onnx
from conffusion.core.arrays import FloatArray, to_pm1
from conffusion.core.device import Device, keep_freed_memory, select_device
from conffusion.errors import ConffusionError
from conffusion.images.resize import resize_bicubic, to_uint8
from conffusion.inference.backends import OnePassBackend, SamplingBackend, open_backend
from conffusion.inference.commands import predict_images
from conffusion.inference.from_run import package_run
from conffusion.inference.model_file import write_package
from conffusion.inference.package import Package
from conffusion.inference.predictor import Predictor
from conffusion.inference.reader import open_reader
from conffusion.inference.tiling import Canvas, Tile, grid_tiles
from conffusion.models.denoiser import ConditionalDenoiser
from conffusion.store import write_json

PAPER_VARIANTS, PAPER_STEPS = 200, 200  # J and T of the paper
GOAL = 1000.0  # times as fast as DM_SB at these
SIDE, SMALL_SIDE = 256, 32  # pixels of the restored image
BATCH = 64  # tiles, or variants, per network call
PASS, SAMPLED_PASS = "network, one pass", "network of DM_SB, one pass"
MEMORY, RUNTIME = "Predictor, in memory", "onnxruntime, in memory"
FILES, PROCESS = "conffusion predict, files to files", "the same as a process, start of Python included"
SAMPLED_FILES = "DM_SB as in the run, files to files"
TEXT = """\
One image of {side}x{side} pixels in {n_tiles} tiles of {tile}x{tile}, {threads} thread(s), networks in {precision},
onnxruntime in float32; medians of {rounds} interleaved rounds after a warm-up, smallest and largest in brackets. CPU
seconds are those of all threads. `passes` counts network calls per tile."""


@dataclass(frozen=True)
class Scene:
    """What is restored, and by what.

    Attributes:
        one_pass: The one-pass model.
        sampled: DM_SB on the network from which it was fine-tuned.
        image: (3, H, W) in [0, 1], before it is enlarged.
        device: Device and precision.
        folder: For files.
    """

    one_pass: Package
    sampled: Package
    image: FloatArray
    device: Device
    folder: Path

    def tiles(self) -> tuple[FloatArray, Sequence[Tile]]:
        """The image as networks see it, (3, H, W), and its tiles."""
        record, factor = self.one_pass.record, self.one_pass.task.factor
        height, width = (factor * side for side in self.image.shape[1:])
        enlarged = resize_bicubic(self.image[None], height, width)[0]
        return enlarged, grid_tiles(height, width, record.image_size, record.overlap, factor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all sides; 1 if the run lacks what is needed."""
    options = _parse(arguments)
    keep_freed_memory()
    try:
        with tempfile.TemporaryDirectory() as folder:
            content = measure(_scene(options, Path(folder)), options)
    except ConffusionError as error:
        print(error, file=sys.stderr)
        return 1
    print(content["text"])
    for part in ("times", "ratios"):
        shown = [{key.replace("_", " "): _cell(value) for key, value in row.items()} for row in content[part]]
        print("\n" + tabulate(shown, headers="keys", tablefmt="github", missingval="-"))
    if options.output is not None:
        write_json(options.output, content)
    return 0


def measure(scene: Scene, options: argparse.Namespace) -> Record:
    """Times of all sides, and their ratios."""
    sides = _sides(scene, options)
    rounds: dict[str, list[Times]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        for name, call in sides.items():
            if number > 0:
                rounds[name].append(_timed(call, of_children=name == PROCESS))
            elif name != SAMPLED_FILES:  # takes minutes, beside which a warm-up is nothing
                call()
    sampling = scene.sampled.record.sampling
    assert sampling is not None
    passes = {SAMPLED_FILES: Predictor(scene.sampled, device="cpu").forward_passes}
    _, tiles = scene.tiles()
    text = TEXT.format(
        side=scene.image.shape[-1] * scene.one_pass.task.factor,
        n_tiles=len(tiles),
        tile=scene.one_pass.record.image_size,
        threads=torch.get_num_threads(),
        precision=precision_of(scene.device),
        rounds=options.rounds,
    )
    return {
        "benchmark": "predict",
        "machine": machine(scene.device.torch_device),
        "text": text,
        "times": [_time_row(name, taken, passes.get(name, 1)) for name, taken in rounds.items()]
        + [_product_row(rounds[SAMPLED_PASS])],
        "ratios": _ratio_rows(rounds, f"T = {sampling.n_steps}, J = {sampling.n_variants}"),
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds per image: one pass, and DM_SB with the same network.")
    parser.add_argument(
        "--run", type=Path, default=Path("results/default"), help="a finished run (default: %(default)s)"
    )
    parser.add_argument("--method", default="n_conffusion", help="the one-pass method (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=5, help="timed calls of each side (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="CPU threads (default: all cores)")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument(
        "--small", action="store_true", help="tiny networks without a run, to see that the script works"
    )
    return parser.parse_args(arguments)


def _scene(options: argparse.Namespace, folder: Path) -> Scene:
    if options.small:
        from tests.inference.small_package import small_package

        packages = [small_package(folder, method=method) for method in ("n_conffusion", "dm_sb")]
    else:
        packages = [package_run(options.run, "super_resolution", method) for method in (options.method, "dm_sb")]
    factor = packages[0].task.factor
    coarse = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    side = (SMALL_SIDE if options.small else SIDE) // factor
    image = to_uint8(resize_bicubic(coarse, side, side)[0]).astype(np.float32) / 255
    device = select_device("cpu", "auto" if packages[0].record.bfloat16 else "float32", options.threads)
    return Scene(packages[0], packages[1], image, device, folder)


def _sides(scene: Scene, options: argparse.Namespace) -> Mapping[str, Callable[[], Any]]:
    """What is timed, by name."""
    one_pass, sampled = (
        Predictor(package, "cpu", BATCH, options.threads) for package in (scene.one_pass, scene.sampled)
    )
    file = scene.folder / "image.png"
    _write_png(file, scene.image)
    sides: dict[str, Callable[[], Any]] = {
        PASS: _network_pass(scene),
        SAMPLED_PASS: _sampled_pass(scene),
        MEMORY: partial(one_pass, scene.image),
        RUNTIME: _runtime(scene, options.threads),
        FILES: partial(_predict_files, one_pass, file, scene.folder),
        SAMPLED_FILES: partial(_predict_files, sampled, file, scene.folder),
    }
    if not options.small:
        sides[PROCESS] = _process(scene, file, options.threads)
    return sides


def _network_pass(scene: Scene) -> Callable[[], None]:
    backend = open_backend(scene.one_pass, scene.device, BATCH)
    assert isinstance(backend, OnePassBackend)
    predictor = backend.predictor
    return _in_batches(scene, lambda tiles: predictor(tiles, torch.ones_like(tiles), torch.zeros_like(tiles)))


def _sampled_pass(scene: Scene) -> Callable[[], None]:
    backend = open_backend(scene.sampled, scene.device, BATCH)
    assert isinstance(backend, SamplingBackend)
    network, schedule = backend.network, backend.schedule
    abar = float(schedule.alphas_cumprod[schedule.n_timesteps // 2])
    return _in_batches(scene, lambda tiles: ConditionalDenoiser(network, tiles)(tiles, abar))


def _in_batches(scene: Scene, network: Callable[[torch.Tensor], Any]) -> Callable[[], None]:
    """The network alone, on all tiles of the image."""
    enlarged, tiles = scene.tiles()
    stacked = scene.device.tensor(to_pm1(np.stack([tile.cut(enlarged) for tile in tiles])))

    def call() -> None:
        with torch.inference_mode(), scene.device.autocast():
            for part in stacked.split(BATCH):
                network(part)

    return call


def _runtime(scene: Scene, threads: int) -> Callable[[], FloatArray]:
    """Enlarge, cut, infer all tiles in one batch, blend: what docs/deployment.md shows."""
    import onnxruntime

    path = scene.folder / "model.onnx"
    export_onnx(scene.one_pass, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def call() -> FloatArray:
        enlarged, tiles = scene.tiles()
        canvas = Canvas(tiles, (2, *enlarged.shape))
        batch = np.stack([tile.cut(enlarged) for tile in tiles])
        bounds = session.run(["lower_unclipped", "upper_unclipped"], {"condition": batch})
        for tile, lower, upper in zip(tiles, *bounds, strict=True):
            canvas.add(tile, np.stack([lower, upper]))
        return canvas.blend(enlarged).clip(0, 1)

    return call


def _predict_files(predictor: Predictor, file: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as output:
        predict_images(predictor, open_reader(predictor.package, [file], []), Path(output) / "predictions")


def _process(scene: Scene, file: Path, threads: int) -> Callable[[], None]:
    package = scene.folder / "model.conffusion"
    write_package(scene.one_pass, package, "none")

    def call() -> None:
        with tempfile.TemporaryDirectory(dir=scene.folder) as output:
            command = [sys.executable, "-m", "conffusion.cli", "predict", str(package), str(file)]
            options = ["--output", f"{output}/predictions", "--device", "cpu", "--threads", str(threads)]
            subprocess.run([*command, *options], check=True, capture_output=True)

    return call


def _write_png(path: Path, image: FloatArray) -> None:
    from PIL import Image

    Image.fromarray(to_uint8(image).transpose(1, 2, 0)).save(path)


def _timed(call: Callable[[], Any], *, of_children: bool) -> Times:
    """Seconds by the clock and of the processor; of processes that it starts instead of this one."""
    start, before = time.perf_counter(), _processor_seconds(of_children)
    call()
    return Times(time.perf_counter() - start, _processor_seconds(of_children) - before)


def _processor_seconds(of_children: bool) -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _time_row(name: str, taken: Sequence[Times], passes: int) -> Record:
    return {
        "side": name,
        "passes": passes,
        "wall_s": _spread([times.wall for times in taken]),
        "cpu_s": _spread([times.cpu for times in taken]),
        "basis": "measured",
    }


def _product_row(taken: Sequence[Times]) -> Record:
    n_passes = PAPER_VARIANTS * PAPER_STEPS
    row = _time_row(
        f"DM_SB, J = {PAPER_VARIANTS}, T = {PAPER_STEPS}", [times.scaled(n_passes) for times in taken], n_passes
    )
    return {**row, "basis": f"product: measured pass x {n_passes}; network alone"}


def _ratio_rows(rounds: Mapping[str, Sequence[Times]], own: str) -> list[Record]:
    """How many times longer DM_SB takes; medians over the rounds of ratios within a round."""
    n_passes = PAPER_VARIANTS * PAPER_STEPS
    paper = f"DM_SB, J = {PAPER_VARIANTS}, T = {PAPER_STEPS} (product)"
    pairs = [(paper, SAMPLED_PASS, n_passes, side) for side in (PASS, MEMORY, RUNTIME, FILES, PROCESS)]
    pairs += [(f"DM_SB, {own} (measured)", SAMPLED_FILES, 1, side) for side in (FILES, PROCESS)]
    rows = []
    for name, theirs, factor, ours in pairs:
        if ours in rounds:
            both = list(zip(rounds[theirs], rounds[ours], strict=True))
            cpu = _spread([factor * their.cpu / our.cpu for their, our in both])
            is_paper = theirs == SAMPLED_PASS
            rows.append(
                {
                    "slow": name,
                    "fast": ours,
                    "cpu_ratio": cpu,
                    "wall_ratio": _spread([factor * their.wall / our.wall for their, our in both]),
                    "goal": GOAL if is_paper else None,
                    "met": ("yes" if cpu["median"] >= GOAL else "no") if is_paper else None,
                }
            )
    return rows


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "smallest": min(values), "largest": max(values)}


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping):
        return f"{value['median']:.3g} ({value['smallest']:.3g} to {value['largest']:.3g})"
    return f"{value:g}" if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
