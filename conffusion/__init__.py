"""Statistically guaranteed per-pixel confidence intervals for diffusion-based image restoration."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conffusion.calibration.estimator import IntervalCalibrator
    from conffusion.inference.calibrated_model import CalibratedModel, Pair
    from conffusion.inference.interval import Interval
    from conffusion.inference.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["CalibratedModel", "Interval", "IntervalCalibrator", "Pair", "Predictor", "__version__"]

_PLACES = {
    "CalibratedModel": "conffusion.inference.calibrated_model",
    "Interval": "conffusion.inference.interval",
    "IntervalCalibrator": "conffusion.calibration.estimator",
    "Pair": "conffusion.inference.calibrated_model",
    "Predictor": "conffusion.inference.predictor",
}


def __getattr__(name: str) -> Any:
    """The names of `__all__`, imported when they are first asked for: calibration needs no torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'conffusion' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
