"""The two protocols as data: where the checkpoint is chosen, and how lambda_hat is found."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from conffusion.calibration import Calibration, calibrate
from conffusion.calibration.procedure import UcbName
from conffusion.calibration.scaling import ScalingName
from conffusion.calibration.units import UnitName
from conffusion.config.schema import CalibrationSettings


@dataclass(frozen=True)
class Protocol:
    """How a checkpoint is selected and calibrated.

    Attributes:
        name: "paper" or "guaranteed".
        selected_on: Split on which checkpoints compete.
        unit: What the bound counts as one sample; None = images, or groups where the data have them.
        ucb: Upper confidence bound; None = the configured one.
        scaling: Set family; None = the configured one.
        sorts_bounds: Whether crossing bounds are counted and sorted before calibration.
    """

    name: str
    selected_on: str
    unit: UnitName | None
    ucb: UcbName | None
    scaling: ScalingName | None
    sorts_bounds: bool

    def calibrate(
        self, lower: Any, upper: Any, target: Any, *, mask: Any, groups: Any | None, settings: CalibrationSettings
    ) -> Calibration:
        """lambda_hat under this protocol; arguments as `conffusion.calibration.calibrate`.

        Raises:
            CalibrationError: If no scale satisfies alpha and delta.
        """
        return calibrate(
            lower,
            upper,
            target,
            alpha=settings.alpha,
            delta=settings.delta,
            mask=mask,
            groups=groups if self.unit is None else None,
            scaling=self.scaling or settings.scaling,
            ucb=self.ucb or settings.ucb,
            unit=self.unit,
        )


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "paper": Protocol("paper", "calibration", "pixel", "official", "multiplicative", sorts_bounds=False),
        "guaranteed": Protocol("guaranteed", "selection", None, None, None, sorts_bounds=True),
    }
)
