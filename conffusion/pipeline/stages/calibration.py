"""Calibration of one method under one protocol: the set family, and lambda_hat."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conffusion.calibration import CalibrationRecord, Family, attainable_risk, choose_family, write_calibration
from conffusion.calibration.procedure import LambdaGrid
from conffusion.calibration.units import unit_means
from conffusion.config.schema import CalibrationSettings
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.data.splits import groups_of
from conffusion.errors import CalibrationError, StoreError
from conffusion.methods.protocols import get_protocol
from conffusion.metrics import image_losses
from conffusion.store import SealedStore, open_store


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
    bounds = open_store(files.bounds)
    images = labelled_bounds(files.bounds, files.images, files.splits)
    rules = get_protocol(protocol, official_quirks=grid is not None)
    family, choice = None, dict[str, Any]()
    if rules.chooses_family and files.selection is not None:
        family, choice = _choose(settings, seed, labelled_bounds(*files.selection, files.splits), images.n_units)
    try:
        found = rules.calibrate(images, settings, grid=grid, family=family)
    except CalibrationError as error:
        raise CalibrationError(f"{files.bounds}, protocol {protocol}: {error}") from error
    record = CalibrationRecord(
        found, split="calibration", selected_on=rules.selected_on,
        checkpoint_step=bounds.attributes.get("checkpoint_step"), feasible=rules.is_feasible(found), **choice,
    )  # fmt: skip
    write_calibration(files.output, record)


def labelled_bounds(bounds: str | Path, images: str | Path, splits: str | Path) -> LabelledBounds:
    """Bounds and truth of the images of a split, on disk, with their groups.

    Raises:
        StoreError: If a store is incomplete, or they are of different images.
    """
    bound_store, image_store = matching_stores(bounds, images)
    return LabelledBounds(
        bound_store["lower"], bound_store["upper"], image_store["target"], image_store["mask"],
        groups_of(splits, image_store.image_ids),
    )  # fmt: skip


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
    settings: CalibrationSettings, seed: int, images: LabelledBounds, n_units: int
) -> tuple[Family, dict[str, Any]]:
    """The narrowest family at the risk that calibration with so many units will leave, and the record of the choice."""
    images = images.in_memory()
    losses = unit_means(image_losses(images.lower, images.upper, images.target, images.mask)[0], images.groups)
    level = attainable_risk(
        losses, n=n_units, alpha=settings.alpha, delta=settings.delta, ucb=settings.ucb, order_seed=None
    )
    family, sizes = choose_family(settings.families, images, level=level, seed=seed)
    return family, {"chosen_on": "selection", "chosen_among": sizes, "expected_risk": level}
