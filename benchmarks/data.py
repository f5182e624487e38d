"""Reading and preparing a folder of photographs at the size of config/paper.yaml: seconds and memory of every step.

    .venv/bin/python -m benchmarks.data --images 30000 --side 1024 --folder /scratch      # 5 GB for a while

The photographs are noisy portraits in JPEG, a few distinct ones many times, each with a comment of its own.
"""

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tabulate import tabulate

from benchmarks.calibration_memory import _peak
from conffusion.config import load_config
from conffusion.config.schema import DatasetSettings
from conffusion.demo import render_faces
from conffusion.pipeline.settings import ImageStage, SplitStage
from conffusion.pipeline.stages.images import prepare_images, split_images

ROOT = Path(__file__).parents[1]
SEED = 2022
NOISE = 4.0  # standard deviation in grey levels: about 176 kB a file at 1024 pixels
TASKS: dict[str, dict[str, Any]] = {  # as config/paper.yaml
    "super_resolution": {"degradation": {"factor": 8, "reduce": "photograph"}, "side": 128, "resample": "bicubic"},
    "inpainting": {"degradation": {"hole": 0.5}, "side": 256, "resample": "bilinear"},
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=int, default=1000, help="files in the folder, at least 22 (default: %(default)s)"
    )
    parser.add_argument("--side", type=int, default=1024, help="their side in pixels, at least 256 (default: 1024)")
    parser.add_argument("--distinct", type=int, default=50, help="distinct pictures (default: %(default)s)")
    parser.add_argument("--split", type=int, default=1000, help="images to prepare (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads that read files (default: %(default)s)")
    parser.add_argument("--folder", help="where the temporary folder is made")
    options = parser.parse_args(arguments)
    n_prepared = min(options.split, options.images - 3)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        make_photographs(root / "photographs", options.images, options.side, options.distinct)
        splits = {"finetune": n_prepared, "selection": 1, "calibration": 1, "test": 1}
        config = load_config(ROOT / "config.yaml")
        values = config.dataset.model_dump() | {"name": "folder", "splits": splits}
        dataset = DatasetSettings(**{**values, "folder": {**values["folder"], "path": str(root / "photographs")}})
        split, index = SplitStage(dataset, 256, SEED, config.calibration), root / "splits.csv"
        rows = [
            measure(f"index, {when}", options.images, root, split_images, split, index, workers=options.threads)
            for when in ("first time", "again")
        ]
        for task, settings in TASKS.items():
            more = {
                "splits": root / "splits.csv",
                "split": "finetune",
                "output": root / task,
                "workers": options.threads,
            }
            stage = ImageStage(dataset, 256, SEED, task, **settings)
            rows.append(
                measure(
                    f"prepare, {task}",
                    n_prepared,
                    root,
                    prepare_images,
                    stage,
                    **more,
                )
            )
    sys.stdout.write(tabulate(rows, headers="keys", floatfmt=".3g") + "\n")
    return 0


def make_photographs(folder: Path, n_images: int, side: int, n_distinct: int) -> None:
    folder.mkdir()
    generator, encoded = np.random.default_rng(0), []
    for portrait in render_faces(range(min(n_distinct, n_images)), 256, population="shifted", seed=1):
        image = Image.fromarray(np.ascontiguousarray(portrait.transpose(1, 2, 0))).resize((side, side))
        grain = Image.fromarray(generator.normal(0, NOISE, (side // 2, side // 2)).astype(np.float32))
        noisy = np.asarray(image, np.float32) + np.asarray(grain.resize((side, side)))[..., None]
        buffer = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    for k in range(n_images):
        content, comment = encoded[k % len(encoded)], f"photograph {k}".encode()
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        (folder / f"{k:05d}.jpg").write_bytes(content[:2] + segment + content[2:])


def measure(step: str, n_images: int, root: Path, work: Callable[..., Any], *given: Any, **more: Any) -> dict[str, Any]:
    """Wall and processor seconds and peak memory of a call in a fresh process, which loads the libraries first."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        wall, processor, peak = pool.submit(_measured, root, work, given, more).result()
    return {
        "step": step,
        "images": n_images,
        "wall s": wall,
        "cpu s": processor,
        "images per cpu s": n_images / processor,
        "peak MB": peak,
    }


def _measured(
    root: Path, work: Callable[..., Any], given: tuple[Any, ...], more: dict[str, Any]
) -> tuple[float, float, float]:
    os.environ["CONFFUSION_CACHE"] = str(root / "cache")
    wall, processor = time.perf_counter(), time.process_time()
    work(*given, **more)
    spent = time.perf_counter() - wall, time.process_time() - processor
    return *spent, _peak() / 1e6


if __name__ == "__main__":
    sys.exit(main())
