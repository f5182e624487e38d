"""Made-up result trees: numbers only (fast), or with images and bounds that look like a run's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conffusion.calibration.risk_bounds import BOUNDS
from conffusion.demo import render_faces
from conffusion.images.resize import resize_bicubic
from conffusion.store import write_json, write_store

PROTOCOLS = ("paper", "guaranteed")


@dataclass(frozen=True)
class Numbers:
    """Made-up results of one method_run under one protocol; arrays have one entry per test image."""

    risk: np.ndarray
    size: np.ndarray
    task: str = "super_resolution"
    method: str = "n_conffusion"
    replicate: int = 0
    protocol: str = "guaranteed"
    groups: Sequence[str] | None = None
    strata: np.ndarray = field(default_factory=lambda: np.array([0.06, 0.08, 0.1, 0.12]))
    passes: int = 1
    seconds: float = 0.002
    n_variants: int | None = None
    lambda_hat: float = 1.05


def steady(value: float, n_images: int = 60, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.full(n_images, value) + noise * np.random.default_rng(seed).standard_normal(n_images)


def write_numbers(root: Path, numbers: Numbers) -> Path:
    """metrics.json, calibration.json and per_image.csv of an method_run; returns its folder."""
    method_run = numbers.method + (f"-r{numbers.replicate}" if numbers.replicate else "")
    folder = root / numbers.task / method_run / numbers.protocol
    folder.mkdir(parents=True)
    n_images = len(numbers.risk)
    pixels = np.full((n_images, 4), 1000)
    ids = [f"face-{k:05d}" for k in range(n_images)]
    table = pd.DataFrame({"image_id": ids, "group": numbers.groups or ids, "risk": numbers.risk,
                          "interval_size": numbers.size})  # fmt: skip
    for k in range(4):
        table[f"misses_{k + 1}"], table[f"pixels_{k + 1}"] = np.round(pixels[:, k] * numbers.strata[k]), pixels[:, k]
    table.to_csv(folder / "per_image.csv", index=False)
    write_json(folder / "metrics.json", _metrics(numbers))
    write_json(folder / "calibration.json", calibration_record(numbers))
    return folder


def _metrics(numbers: Numbers) -> dict[str, Any]:
    return {
        "task": numbers.task, "method": numbers.method, "replicate": numbers.replicate, "protocol": numbers.protocol,
        "risk": float(numbers.risk.mean()), "interval_size_mean": float(numbers.size.mean()),
        "interval_size_median": float(np.median(numbers.size)), "stratified_risk": list(numbers.strata),
        "stratified_risk_official": list(numbers.strata + 0.01),
        "official_unit": "image" if numbers.task == "inpainting" else "image_channel", "n_test": len(numbers.risk),
        "n_variants": numbers.n_variants, "forward_passes_per_image": numbers.passes,
        "seconds_per_image": numbers.seconds, "n_crossed": 3, "fraction_crossed": 1e-5,
    }  # fmt: skip


def calibration_record(numbers: Numbers) -> dict[str, Any]:
    paper = numbers.protocol == "paper"
    return {
        "lambda_hat": numbers.lambda_hat, "risk": 0.095, "risk_ucb": 0.0999, "n_images": 200,
        "n_bound": 614400 if paper else 200, "unit": "pixel" if paper else "image",
        "ucb": "official" if paper else "wsr", "scaling": "multiplicative",
        "alpha": 0.1, "delta": 0.1, "split": "calibration",
        "selected_on": "calibration" if paper else "selection", "checkpoint_step": 400, "feasible": True,
    }  # fmt: skip


# size relative to DM_SB, risk, passes
METHODS: dict[str, tuple[float, float, int]] = {
    "adm_uq": (1.15, 0.095, 1), "dm_sb": (1.0, 0.091, 200), "dm_sba": (0.98, 0.094, 1),
    "n_conffusion": (0.96, 0.096, 1),
    "g_conffusion": (1.22, 0.093, 1), "resnext": (1.31, 0.099, 1), "resnest": (1.28, 0.09, 1),
}  # fmt: skip
BASE_SIZE = {"super_resolution": 0.17, "inpainting": 0.41}


@dataclass(frozen=True)
class Run:
    """A made-up run on disk."""

    root: Path
    folders: tuple[Path, ...]

    def images(self, task: str) -> Path:
        return self.root / task / "images" / "test.zarr"

    def method_runs(self, task: str, protocol: str = "guaranteed") -> list[Path]:
        return [folder for folder in self.folders if folder.parent.parent.name == task and folder.name == protocol]

    def trainings(self, task: str) -> list[Path]:
        return sorted((self.root / task).glob("*/training.csv"))


def write_run(root: Path, *, n_images: int = 12, size: int = 16, methods: Sequence[str] = tuple(METHODS)) -> Run:
    """A run with images, bounds, curves and training records of the given methods, both tasks and protocols."""
    folders = []
    target = render_faces(range(n_images), size, population="shifted").astype(np.float32) / 255
    for task, base in BASE_SIZE.items():
        ids = [f"face-{k:05d}" for k in range(n_images)]
        condition, mask = _corrupt(task, target)
        write_store(root / task / "images" / "test.zarr", {"target": target, "condition": condition, "mask": mask}, ids,
                    {"task": task})  # fmt: skip
        for place, method in enumerate(methods):
            for protocol in PROTOCOLS:
                numbers = _numbers(task, method, protocol, base, seed=place, n_images=n_images)
                folder = write_numbers(root, numbers)
                folders.append(folder)
                lower, upper = _bounds(target, numbers, mask, seed=place)
                write_store(folder / "bounds" / "test.zarr", {"lower": lower, "upper": upper}, ids, {})
                _curve(numbers.lambda_hat, float(numbers.size.mean())).to_csv(folder / "curve.csv", index=False)
                np.savez(folder / "positions.npz", risk=positions_risk(task, place))
            if method != "dm_sb":
                _training(base, place).to_csv(root / task / method / "training.csv", index=False)
    return Run(root, tuple(folders))


def positions_risk(task: str, seed: int) -> np.ndarray:
    """Risk over 16 x 16 positions; NaN around the hole."""
    risk = np.random.default_rng(seed).uniform(0.0, 0.25, (16, 16))
    if task == "inpainting":
        risk[[0, 1, 2, 3, -4, -3, -2, -1]] = np.nan
    return risk


def write_validity(path: Path, sizes: Sequence[int] = (200,)) -> Path:
    rows = [
        {"task": task, "method": method, "protocol": protocol, "bound": bound, "family": "multiplicative", "n": n,
         "n_draws": 1000, "violation_rate": rate, "standard_error": (rate * (1 - rate) / 1000) ** 0.5,
         "infeasible_rate": 0.0, "interval_size_mean": base * METHODS[method][0]}
        for task, base in BASE_SIZE.items()
        for place, method in enumerate(METHODS)
        for n in sizes
        for protocol, bound, rate in (
            ("paper", "official, n = pixels", 0.4 + 0.01 * place),
            ("paper", "official, n = pixels, checkpoint reselected", 0.48 + 0.012 * place),
            ("guaranteed", "wsr, n = images", 0.01 + 0.006 * place),
        )
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def write_comparison(path: Path) -> Path:
    """validity.csv with rows that compare bounds and families on one method."""
    table = pd.read_csv(write_validity(path))
    own = table[(table["method"] == "dm_sb") & (table["protocol"] == "guaranteed")]
    rows = [
        own.assign(protocol="comparison", bound=f"{bound}, n = images", family=family, n=n)
        for family in ("multiplicative", "additive", "learned")
        for bound in BOUNDS
        for n in (50, 200)
    ]
    pd.concat([table, *rows]).to_csv(path, index=False)
    return path


def write_benchmark(root: Path, name: str, seconds: float, memory: str = "400") -> None:
    header = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    file = root / "benchmarks" / f"{name}.tsv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{header}{seconds}\t0:01:01\t{memory}\t1\t1\t1\t0\t0\t99\t{2 * seconds}\n")


def _corrupt(task: str, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    side = target.shape[-1]
    mask = np.ones(target.shape, dtype=np.uint8)
    if task == "super_resolution":
        small = resize_bicubic(target, side // 4, side // 4)
        return np.clip(resize_bicubic(small, side, side), 0, 1).astype(np.float32), mask
    mask[:] = 0
    hole = slice(side // 4, 3 * side // 4)
    mask[..., hole, hole] = 1
    return np.where(mask == 1, np.float32(0.5), target), mask


def _numbers(task: str, method: str, protocol: str, base: float, seed: int, n_images: int) -> Numbers:
    relative, risk, passes = METHODS[method]
    risk += 0.004 * (protocol == "paper") + 0.006 * (task == "inpainting")
    return Numbers(
        steady(risk, n_images, 0.03, seed).clip(0), steady(base * relative, n_images, 0.1 * base, 99).clip(0.01),
        task, method, 0, protocol, strata=risk * np.array([0.5, 0.9, 1.2, 1.4]) + 0.004 * (seed % 3), passes=passes,
        seconds=0.002 * passes, n_variants=20 if method == "dm_sb" else None, lambda_hat=1.02 + 0.01 * seed,
    )  # fmt: skip


def _bounds(target: np.ndarray, numbers: Numbers, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A blurred truth plus and minus a width that follows the local detail."""
    side = target.shape[-1]
    smooth = resize_bicubic(resize_bicubic(target, side // 2, side // 2), side, side)
    detail = np.abs(target - smooth).mean(axis=1, keepdims=True)
    detail = resize_bicubic(resize_bicubic(detail, side // 4, side // 4), side, side) + 0.01
    width = float(numbers.size.mean()) * detail / detail.mean()
    noise = 0.1 * width * np.random.default_rng(seed).standard_normal(target.shape)
    lower, upper = (np.where(mask == 1, smooth + noise + sign * width / 2, target) for sign in (-1, 1))
    return lower.clip(0, 1).astype(np.float32), upper.clip(0, 1).astype(np.float32)


def _curve(lambda_hat: float, size: float) -> pd.DataFrame:
    scale = np.linspace(0.9, 1.35, 41)
    risk = 0.095 * np.exp(-4 * (scale - lambda_hat))
    return pd.DataFrame({"lambda": scale, "calibration_risk": risk, "calibration_risk_ucb": risk + 0.005,
                         "test_risk": risk * 0.97 + 0.002, "test_size": size * scale})  # fmt: skip


def _training(base: float, seed: int) -> pd.DataFrame:
    steps = np.arange(10, 501, 10)
    noise = np.random.default_rng(seed).uniform(0.93, 1.07, len(steps))
    losses = pd.DataFrame({"step": steps, "loss": (0.012 + 0.05 * np.exp(-steps / 80)) * noise})
    rows = [
        {"step": step, "protocol": protocol, "lambda_hat": 1.1, "risk": 0.09,
         "interval_size": base * (1 + 0.03 * seed) * (1 + 0.6 * np.exp(-step / 150)) + 0.002 * (protocol == "paper")
         + 0.006 * (step == 500)}
        for step in range(100, 501, 100) for protocol in PROTOCOLS
    ]  # fmt: skip
    return pd.concat([losses, pd.DataFrame(rows)])
