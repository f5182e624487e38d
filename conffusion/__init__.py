"""Statistically guaranteed per-pixel confidence intervals for diffusion-based image restoration."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conffusion.predict.interval import Interval
    from conffusion.predict.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Interval", "Predictor", "__version__"]

_PLACES = {"Interval": "conffusion.predict.interval", "Predictor": "conffusion.predict.predictor"}


def __getattr__(name: str) -> Any:
    """`Predictor` and `Interval`, imported when they are first asked for: calibration needs no torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'conffusion' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
