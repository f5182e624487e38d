"""Calibration of interval scales: critical values, upper confidence bounds and the exact search for lambda_hat.

Works on arrays from any model and needs NumPy and SciPy only.
"""

from conffusion.calibration.procedure import Calibration, calibrate
from conffusion.calibration.scaling import critical_lambda
from conffusion.calibration.ucb import hoeffding_bentkus_ucb, hoeffding_ucb, official_ucb, wsr_ucb

__all__ = [
    "Calibration",
    "calibrate",
    "critical_lambda",
    "hoeffding_bentkus_ucb",
    "hoeffding_ucb",
    "official_ucb",
    "wsr_ucb",
]
