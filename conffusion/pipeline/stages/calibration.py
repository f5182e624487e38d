"""Calibration of one method under one protocol: the set family, and lambda_hat."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conffusion.calibration import Calibration, Family, attainable_risk, choose_family
from conffusion.calibration.procedure import LambdaGrid
from conffusion.calibration.record import FAMILY_FILE
from conffusion.calibration.units import group_index, group_means
from conffusion.config.schema import CalibrationSettings
from conffusion.data.splits import groups_of
from conffusion.errors import CalibrationError, StoreError
from conffusion.methods.protocols import Protocol, get_protocol
from conffusion.metrics import image_losses
from conffusion.store import SealedStore, open_store, write_json


@dataclass(frozen=True)
class CalibrationFiles:
    """What the calibration of one method under one protocol reads and writes.

    Attributes:
        bounds: Bounds of the split calibration.
        images: Images of the split calibration.
        splits: splits.csv.
        output: calibration.json; under a protocol that chooses its family, family.json is written beside it.
        selection: Bounds and images of the split selection, for a protocol that chooses its family on them.
    """

    bounds: Path
    images: Path
    splits: Path
    output: Path
    selection: tuple[Path, Path] | None = None


def calibrate_method(
    settings: CalibrationSettings, protocol: str, seed: int, files: CalibrationFiles, grid: LambdaGrid | None = None
) -> None:
    """Choose the family on the selection split, where the protocol says so, and find lambda_hat on calibration.

    With a grid (see `official_grid`) the protocol "paper" scans it as the official code does.

    Raises:
        CalibrationError: If no scale satisfies alpha and delta; says how many images or groups would be needed.
        StoreError: If a store is incomplete, or bounds and images are of different images.
    """
    bounds, images = matching_stores(files.bounds, files.images)
    groups = groups_of(files.splits, images.image_ids)
    rules = get_protocol(protocol, official_quirks=grid is not None)
    family: Family | None = None
    choice: dict[str, Any] = {}
    if rules.chooses_family and files.selection is not None:
        n_units = len(images.image_ids) if groups is None else len(np.unique(groups))
        family, choice = _choose(settings, seed, files.splits, files.selection, n_units)
        write_json(files.output.with_name(FAMILY_FILE), family.to_dict())
    try:
        values, mask = (bounds["lower"], bounds["upper"], images["target"]), images["mask"]
        result = rules.calibrate(*values, mask=mask, groups=groups, settings=settings, grid=grid, family=family)
    except CalibrationError as error:
        raise CalibrationError(f"{files.bounds}, protocol {protocol}: {error}") from error
    write_json(files.output, _record(result, rules, bounds) | choice)


def matching_stores(bounds: str | Path, images: str | Path) -> tuple[SealedStore, SealedStore]:
    """Stores of bounds and images.

    Raises:
        StoreError: If a store is incomplete, or they are of different images.
    """
    bound_store, image_store = open_store(bounds), open_store(images)
    if bound_store.image_ids != image_store.image_ids:
        raise StoreError(f"{bounds} and {images} hold different images; rerun the rule that makes the bounds")
    return bound_store, image_store


def _choose(
    settings: CalibrationSettings, seed: int, splits: Path, selection: tuple[Path, Path], n_units: int
) -> tuple[Family, dict[str, Any]]:
    """The narrowest family at the risk that calibration with so many units will leave, and the record of the choice."""
    bounds, images = matching_stores(*selection)
    groups = groups_of(splits, images.image_ids)
    sources = (bounds["lower"], bounds["upper"], images["target"], images["mask"])
    lower, upper, target, mask = (np.asarray(array[:]) for array in sources)
    losses = image_losses(lower, upper, target, mask)[0]
    if groups is not None:
        losses = group_means(losses, group_index(groups, len(losses)))
    level = attainable_risk(losses, n=n_units, alpha=settings.alpha, delta=settings.delta, ucb=settings.ucb)
    family, sizes = choose_family(
        settings.families, lower, upper, target, mask=mask, groups=groups, level=level, seed=seed
    )
    return family, {"chosen_on": "selection", "chosen_among": sizes, "expected_risk": level}


def _record(result: Calibration, rules: Protocol, bounds: SealedStore) -> dict[str, Any]:
    return {
        "lambda_hat": result.lambda_hat,
        "risk": result.risk,
        "risk_ucb": result.risk_ucb,
        "n_images": result.n_images,
        "n_bound": result.n,
        "unit": result.unit,
        "ucb": result.ucb,
        "scaling": result.scaling,
        "alpha": result.alpha,
        "delta": result.delta,
        "split": "calibration",
        "selected_on": rules.selected_on,
        "checkpoint_step": bounds.attributes.get("checkpoint_step"),
        "feasible": rules.is_feasible(result),
    }
