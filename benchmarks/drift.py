"""Does the drift check keep quiet on exchangeable images, and does it speak up on others? On a finished run.

    .venv/bin/python -m benchmarks.drift --run results/default

Quiet: the pool of calibration and test images is split at random, again and again, into a reference and new images; the
p-values must be uniform (Kolmogorov-Smirnov test). Speaking up: what is given of the test images is blurred, darkened,
or seen through another camera, and predicted anew by the packaged model; power is the share of draws of n of them,
without replacement, whose p-value is at most the level.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from scipy import ndimage, stats
from tabulate import tabulate

from conffusion import Predictor
from conffusion.core.arrays import FloatArray
from conffusion.evaluation.drift import ATYPICAL, check_drift
from conffusion.images.resize import resize_bicubic, to_uint8
from conffusion.inference.from_run import package_run
from conffusion.inference.predictor import Corrupted
from conffusion.store import open_store


def blurred(image: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Out of focus: a Gaussian blur of one pixel."""
    return np.stack([ndimage.gaussian_filter(plane, 1.0) for plane in image])


def darkened(image: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Half the light."""
    return image * np.float32(0.5)


def another_camera(image: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Another white balance, a softer tone curve, more noise."""
    balanced = np.clip(image * np.array([1.1, 1.0, 0.85], np.float32)[:, None, None], 0, 1) ** np.float32(0.8)
    return balanced + generator.normal(0, 0.03, image.shape).astype(np.float32)


CHANGES: Mapping[str, Callable[[FloatArray, np.random.Generator], FloatArray]] = MappingProxyType(
    {"none": lambda image, generator: image, "blurred": blurred, "darkened": darkened, "another camera": another_camera}
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="results/default", help="a finished run (default: %(default)s)")
    parser.add_argument("--method", default="n_conffusion", help="default: %(default)s")
    parser.add_argument("--splits", type=int, default=500, help="random splits of the pool (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=100, help="draws behind each power (default: %(default)s)")
    parser.add_argument("--n", type=int, default=100, help="new images (default: %(default)s)")
    parser.add_argument("--images", type=int, default=400, help="test images that are changed (default: %(default)s)")
    parser.add_argument("--permutations", type=int, default=500, help="of each test (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args(arguments)
    quiet, loud = [], []
    for task in sorted(
        path.parents[2].name for path in Path(options.run).glob(f"*/{options.method}/guaranteed/model.safetensors")
    ):
        predictor = Predictor(package_run(options.run, task, options.method), threads=options.threads)
        features = {name: changed_features(predictor, options, task, name) for name in CHANGES}
        quiet.append([task, *uniformity(predictor, features["none"], options)])
        loud += [[task, name, *power(predictor, features[name], options)] for name in CHANGES]
    print(f"\nExchangeable images, {options.splits} splits\n")
    print(tabulate(quiet, ["task", "reference", "new", "KS p", "share below .01", "share below .1"], "github", ".3g"))
    print(
        f"\nPower at n = {options.n}, level {ATYPICAL:g}, {options.draws} draws; 'none' is the rate of false alarms\n"
    )
    print(tabulate(loud, ["task", "change", "power", "median p"], "github", ".3g"))
    return 0


def changed_features(predictor: Predictor, options: argparse.Namespace, task: str, change: str) -> FloatArray:
    """(n_images, 10) features of test images whose given part was changed."""
    generator = np.random.default_rng(0)
    store = open_store(Path(options.run) / task / "images" / "test.zarr")
    rows = slice(0, min(options.images, len(store.image_ids)))
    targets, masks = np.asarray(store["target"][rows]), np.asarray(store["mask"][rows])[:, 0]
    if not predictor.task.has_mask:
        side = targets.shape[-1] // predictor.task.factor
        given, masks = resize_bicubic(targets, side, side), [None] * len(targets)
    else:
        given = targets
    images = (
        Corrupted(to_uint8(CHANGES[change](image, generator)).astype(np.float32) / 255, mask)
        for image, mask in zip(given, masks, strict=True)
    )
    return np.array([interval.features for _, interval in predictor.map_uncalibrated(images)])


def uniformity(predictor: Predictor, new: FloatArray, options: argparse.Namespace) -> list[float]:
    """Sizes of the two sets, p-value of uniformity, and shares of small p-values."""
    pool, generator = np.concatenate([predictor.package.evidence.features, new]), np.random.default_rng(1)
    n_new = min(options.n, len(pool) // 3)
    p_values = []
    for split in range(options.splits):
        order = generator.permutation(len(pool))
        drift = check_drift(pool[order[n_new:]], pool[order[:n_new]], n_permutations=options.permutations, seed=split)
        p_values.append(drift.p_value)
    values = np.array(p_values)
    test = stats.kstest(values, "uniform").pvalue
    return [len(pool) - n_new, n_new, float(test), float((values <= 0.01).mean()), float((values <= 0.1).mean())]


def power(predictor: Predictor, new: FloatArray, options: argparse.Namespace) -> list[float]:
    """Share of draws that are found, and their median p-value."""
    generator, p_values = np.random.default_rng(2), []
    reference = predictor.package.evidence.features
    for draw in range(options.draws):
        rows = generator.choice(len(new), min(options.n, len(new)), replace=False)
        drift = check_drift(reference, new[rows], n_permutations=options.permutations, seed=draw)
        p_values.append(drift.p_value)
    return [float((np.array(p_values) <= ATYPICAL).mean()), float(np.median(p_values))]


if __name__ == "__main__":
    sys.exit(main())
