"""The calibrated scale, what it guarantees, and the one form in which it is kept.

The workflow, `conffusion calibrate` and Python write `calibration.json` with `write_calibration`, and family.json
beside it for the fitted shape, which is long. Models in one file hold `Calibration.to_dict`. `read_record` and
`Calibration.from_dict` read all of these.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from conffusion.calibration.families import Family, Shape
from conffusion.calibration.guarantee import Guarantee
from conffusion.calibration.risk_bounds import BOUNDS
from conffusion.core.arrays import ArrayLike, FloatArray, as_numpy, check_same_shape
from conffusion.core.choices import FAMILIES, UNITS, BoundName, UnitName
from conffusion.core.layout import ResultFolder
from conffusion.errors import ConfigError, StoreError

_N_BEFORE = "n"  # what models in one file and `conffusion calibrate` called `n_bound`


@dataclass(frozen=True)
class Calibration:
    """A calibrated scale and what it guarantees.

    Attributes:
        lambda_hat: Scale to apply.
        risk: Mean loss of the calibration units at lambda_hat, in [0, 1].
        risk_ucb: What the bound `ucb` makes of the risk at lambda_hat (an upper confidence bound), at most alpha.
        n: Number given to the bound (images, groups or pixel values).
        alpha: Guaranteed risk level.
        delta: Error level: probability, over calibration sets, that the risk exceeds alpha all the same.
        scaling: Name of the set family.
        ucb: Name of the bound.
        unit: "image", "group" or "pixel".
        n_images: Number of calibration images, whatever the unit.
        shape: Fitted shape of the set family, where it has one.
    """

    lambda_hat: float
    risk: float
    risk_ucb: float
    n: int
    alpha: float
    delta: float
    scaling: str
    ucb: BoundName
    unit: UnitName
    n_images: int
    shape: Shape | None = None

    @property
    def family(self) -> Family:
        """The set family."""
        return Family(self.scaling, self.shape)

    @property
    def guarantee(self) -> Guarantee:
        """What holds for new images."""
        return Guarantee(self.alpha, self.delta, self.unit, self.n, self.n_images, self.ucb)

    def apply(self, lower: ArrayLike, upper: ArrayLike) -> tuple[Any, Any]:
        """Scale bounds by lambda_hat and clamp them to [0, 1].

        Args:
            lower: Lower bounds, any shape, in [0, 1]; whole images (N, C, H, W) where the family has a shape.
            upper: Upper bounds, same shape.
        Returns:
            (lower, upper), float64, torch tensors for torch tensors, else NumPy arrays. Computed in double precision
            so that exactly the pixels counted as covered are covered; rounding the result to float32 can only cover
            more of a float32 truth.
        Raises:
            ShapeError: If the shapes differ.
        """
        check_same_shape(lower=lower, upper=upper)
        low, high = _double(lower), _double(upper)
        if self.shape is not None:
            ends = self.shape.apply(as_numpy(low), as_numpy(high))
            low, high = _like(low, ends[0]), _like(low, ends[1])
        with np.errstate(over="ignore"):
            low, high = self.family.scaling.apply(low, high, self.lambda_hat)
        return low.clip(0.0, 1.0), high.clip(0.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, under the names of `calibration.json`; the family's shape is not among them."""
        values = {name: getattr(self, name) for name in _TYPES if name != "n_bound"}
        return values | {"n_bound": self.n}

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], family: Family | None = None, *, source: str | Path = "calibration"
    ) -> "Calibration":
        """Inverse of `to_dict`; other keys are left alone.

        Args:
            values: Plain values; also those of files that say `n` instead of `n_bound`.
            family: The set family, where it has a fitted shape.
            source: File or key that the values are from, for messages.
        Raises:
            StoreError: If a value is missing or of the wrong type; names the source and the key.
        """
        if not isinstance(values, Mapping):
            raise StoreError(f"{source}: is no calibration; calibrate again")
        known = {name: _checked(values, name, source) for name in _TYPES}
        shape = family.shape if family is not None and family.name == known["scaling"] else None
        return cls(n=known.pop("n_bound"), shape=shape, **known)


@dataclass(frozen=True)
class CalibrationRecord:
    """The content of `calibration.json`: a calibration, and how it came about as far as that is known.

    Attributes:
        calibration: The scale.
        split: Split whose images calibrated.
        selected_on: Split on which the checkpoint was chosen.
        checkpoint_step: Training step of the network that made the bounds; None without training.
        feasible: Whether the scale controls the risk; False only where the official code's grid ended without one.
        chosen_on: Split on which the set family was chosen.
        chosen_among: Cross-validated mean size of each family that it was chosen among.
        expected_risk: Risk at which the family was fitted.
        package: Name of the model that was calibrated.
        model_sha256: Checksum of its weights.
        warnings: What was odd about values in image files, with the number of images.
    """

    calibration: Calibration
    split: str | None = None
    selected_on: str | None = None
    checkpoint_step: int | None = None
    feasible: bool = True
    chosen_on: str | None = None
    chosen_among: Mapping[str, float] | None = None
    expected_risk: float | None = None
    package: str | None = None
    model_sha256: str | None = None
    warnings: Mapping[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: those of the calibration, and what is known of the rest."""
        facts = {name: getattr(self, name) for name in _FACTS}
        return self.calibration.to_dict() | {
            name: value for name, value in facts.items() if value is not None or name in _ALWAYS_WRITTEN
        }


def write_calibration(path: str | Path, record: CalibrationRecord) -> None:
    """Write `calibration.json`, and family.json beside it where the set family was chosen or has a fitted shape.

    Raises:
        StoreError: If the disk refuses.
    """
    from conffusion.store import write_json  # here because zarr takes long to import

    family = record.calibration.family
    if family.shape is not None or record.chosen_among is not None:
        write_json(ResultFolder(Path(path).parent).family, family.to_dict())
    write_json(path, record.to_dict())


def read_record(path: str | Path, *, with_shape: bool = True) -> CalibrationRecord:
    """What `write_calibration` wrote, now or in an earlier version.

    Args:
        path: `calibration.json`.
        with_shape: Whether to read family.json too, which only those need who apply the scale.
    Raises:
        StoreError: If the file, or the family.json beside it that its family needs, is missing or damaged, or is not
            a calibration; names the file and the key.
    """
    from conffusion.store import read_json  # here because zarr takes long to import

    values = read_json(path)
    calibration = Calibration.from_dict(values, source=path)
    if with_shape and Family.has_shape(calibration.scaling):
        family = _read_family(ResultFolder(Path(path).parent).family, calibration.scaling)
        calibration = replace(calibration, shape=family.shape)
    return CalibrationRecord(calibration, **{name: values[name] for name in _FACTS if name in values})


def read_calibration(path: str | Path) -> Calibration:
    """The calibration in a `calibration.json`, to be applied to further bounds of the same method.

    Raises:
        StoreError: As `read_record`.
    """
    return read_record(path).calibration


def _read_family(path: Path, name: str) -> Family:
    from conffusion.store import read_json  # here because zarr takes long to import

    values = read_json(path)
    try:
        family = Family.from_dict(values)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: holds no set family ({error!r}); calibrate again") from error
    if family.name != name:
        raise StoreError(f"{path}: holds the family {family.name!r} but the scale is of {name!r}; calibrate again")
    return family


_TYPES: Mapping[str, type] = {
    "lambda_hat": float,
    "risk": float,
    "risk_ucb": float,
    "n_bound": int,
    "alpha": float,
    "delta": float,
    "scaling": str,
    "ucb": str,
    "unit": str,
    "n_images": int,
}
_CHOICES: Mapping[str, Collection[str]] = {"ucb": BOUNDS, "unit": UNITS, "scaling": FAMILIES}
_FACTS = tuple(field.name for field in fields(CalibrationRecord) if field.name != "calibration")
_ALWAYS_WRITTEN = ("split", "selected_on", "checkpoint_step")


def _checked(values: Mapping[str, Any], name: str, source: str | Path) -> Any:
    """The value of a key, of its type."""
    value = values.get(name, values.get(_N_BEFORE) if name == "n_bound" else None)
    if value is None:
        raise StoreError(f"{source}: has no {name!r}, so it is no calibration of this project; calibrate again")
    kind = _TYPES[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = isinstance(value, str) if kind is str else is_number and math.isfinite(value) and kind(value) == value
    if not fits or value not in _CHOICES.get(name, (value,)):
        raise StoreError(f"{source}: {name} = {value!r} is not what a calibration has there; calibrate again")
    return kind(value)


def _double(array: ArrayLike) -> Any:
    """float64 copy, in torch for a torch tensor."""
    if hasattr(array, "double"):
        return array.double()
    return as_numpy(array).astype(np.float64)


def _like(array: ArrayLike, values: FloatArray) -> Any:
    """The values as a torch tensor of the type and on the device of `array`, where that is one."""
    return array.new_tensor(values) if hasattr(array, "new_tensor") else values
