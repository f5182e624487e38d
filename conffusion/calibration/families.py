"""Set families: one of the scalings, after a shape that was fitted on images that calibrate nothing, or none.

A shape moves the bounds of whole images once and for all; the scale lambda then moves them as the scaling does, so
every family is nested in lambda, and calibration finds one number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from conffusion.calibration.krcps import PixelGroups
from conffusion.calibration.learned import LearnedScale
from conffusion.calibration.scaling import SCALINGS, Scaling, get_scaling
from conffusion.core.arrays import FloatArray
from conffusion.core.choices import ScalingName
from conffusion.errors import ConfigError

_SHAPED: Mapping[str, tuple[ScalingName, type[LearnedScale] | type[PixelGroups]]] = MappingProxyType(
    {"pixel_groups": ("additive", PixelGroups), "learned": ("interval", LearnedScale)}
)


class Shape(Protocol):
    """What is done to bounds before they are scaled."""

    def apply(self, lower: FloatArray, upper: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Reshaped bounds of whole images (N, C, H, W), float64; each image's depend on its own bounds alone."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""


@dataclass(frozen=True, eq=False)
class Family:
    """Sets that grow with one scale lambda.

    Attributes:
        name: "multiplicative", "additive", "interval", or one with a shape: "pixel_groups" (K-RCPS: an offset for each
            group of pixel positions, then additive), "learned" (a learned reach of each end, then about the midpoint).
        shape: Fitted shape; None for a plain scaling.
    Raises:
        ConfigError: If the name is unknown, or has a shape and none is given, or the other way round.
    """

    name: str
    shape: Shape | None = None

    def __post_init__(self) -> None:
        check_family_name(self.name)
        if self.shape is None and self.name in _SHAPED:
            raise ConfigError(f"scaling = {self.name!r} has a shape: fit it with fit_family and pass the family itself")
        if self.shape is not None and self.name not in _SHAPED:
            raise ConfigError(f"scaling = {self.name!r} has no shape: only {', '.join(_SHAPED)} do")

    @property
    def scaling(self) -> Scaling:
        """How lambda moves the (reshaped) bounds."""
        return get_scaling(_SHAPED[self.name][0] if self.shape is not None else self.name)

    @staticmethod
    def has_shape(name: str) -> bool:
        """Whether the family called `name` has a shape, which is fitted."""
        return name in _SHAPED

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"name": self.name, "shape": None if self.shape is None else self.shape.to_dict()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Family":
        """Inverse of `to_dict`.

        Raises:
            ConfigError: If there is no such family.
        """
        name, shape = record["name"], record["shape"]
        if shape is None or name not in _SHAPED:
            return cls(name, shape)
        return cls(name, _SHAPED[name][1].from_dict(shape))


def get_family(family: str | Family) -> Family:
    """The family of that name, or the given one.

    Raises:
        ConfigError: If there is no plain scaling of that name.
    """
    return family if isinstance(family, Family) else Family(family)


def check_family_name(name: str) -> None:
    """Raise ConfigError unless there is a family called `name`, plain or with a shape."""
    if name not in SCALINGS and name not in _SHAPED:
        raise ConfigError(f"scaling = {name!r}: must be one of {', '.join((*SCALINGS, *_SHAPED))}")
