"""Bounds from one forward pass: by the chosen checkpoints, and by every candidate for the validity table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conffusion.calibration import Family
from conffusion.core.arrays import FloatArray
from conffusion.core.choices import PAPER_SCALING
from conffusion.core.device import Device
from conffusion.core.progress import Progress
from conffusion.errors import StoreError
from conffusion.evaluation.validity import LossCurves
from conffusion.methods.models import load_predictor
from conffusion.methods.one_pass import iterate_bounds, predict_bounds
from conffusion.methods.predictor import BoundPredictor
from conffusion.methods.protocols import Protocol
from conffusion.methods.quirks import NO_QUIRK, Quirk
from conffusion.pipeline.settings import PredictionStage
from conffusion.pipeline.stages.bounds import new_bounds
from conffusion.pipeline.stages.evaluation import pool_curves
from conffusion.store import SealedStore, atomic_path, open_store
from conffusion.tasks import DegradedImages


def predict_method_bounds(
    protocol: Protocol,
    settings: PredictionStage,
    device: Device,
    *,
    model: str | Path,
    images: Sequence[str | Path],
    outputs: Sequence[str | Path],
) -> None:
    """Bounds of the given image stores by the protocol's checkpoint, before calibration."""
    predictor, training = load_predictor(model)
    device.place(predictor)
    progress = Progress(f"predicting, protocol {protocol.name}", len(images), unit="splits")
    for path, output in zip(images, outputs, strict=True):
        store = open_store(path)
        degraded = DegradedImages.of_store(store, settings.seed)
        quirk = protocol.quirk(training["step"], calibrating=store.attributes["split"] != "test")
        attributes = {"checkpoint_step": training["step"], "forward_passes_per_image": 1}
        seconds = []
        with new_bounds(output, degraded.shape, store.image_ids, protocol.name, attributes) as writer:
            for lower, upper, taken in iterate_bounds(
                predictor, DegradedImages.of_store(store, settings.seed), device, quirk=quirk
            ):
                writer.append(lower, upper)
                seconds.append(taken)
            writer.attributes["seconds_per_image"] = float(np.median(seconds))
        progress.update()


def trace_candidates(
    seed: int,
    device: Device,
    *,
    candidates: str | Path,
    images: Sequence[str | Path],
    splits: str | Path,
    output: str | Path,
) -> None:
    """Loss curves of every candidate on the pooled images of the given splits: one .npz file each."""
    stores = [open_store(path) for path in images]
    checkpoints = sorted(Path(candidates).glob("step-*.safetensors"))
    if not checkpoints:
        raise StoreError(f"{candidates}: holds no checkpoint; delete it and rerun the rule finetune_method")
    progress = Progress("tracing", len(checkpoints), unit="checkpoints")
    with atomic_path(output) as folder:
        folder.mkdir()
        for checkpoint in checkpoints:
            _trace(checkpoint, stores, seed, device, splits).save(folder / f"{checkpoint.stem}.npz")
            progress.update()


def _trace(
    checkpoint: Path, stores: Sequence[SealedStore], seed: int, device: Device, splits: str | Path
) -> LossCurves:
    predictor, _ = load_predictor(checkpoint)
    device.place(predictor)
    pairs = []
    for store in stores:
        lower, upper, _ = predict_store(predictor, store, seed, device)
        pairs.append(({"lower": lower, "upper": upper}, store))
    return pool_curves(pairs, splits, Family(PAPER_SCALING))


def predict_store(
    predictor: BoundPredictor,
    store: SealedStore,
    seed: int,
    device: Device,
    quirk: Quirk = NO_QUIRK,
) -> tuple[FloatArray, FloatArray, float]:
    """Bounds (N, C, H, W) in [0, 1] of all images of a store, and seconds per image."""
    return predict_bounds(predictor, DegradedImages.of_store(store, seed), device, quirk=quirk)
