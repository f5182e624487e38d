"""Calibration of interval scales: critical values, upper confidence bounds and the exact search for lambda_hat.

Works on arrays from any model and needs NumPy and SciPy only.
"""

from conffusion.calibration.betting import star_ucb, wsr_ucb
from conffusion.calibration.estimator import IntervalCalibrator, Selection
from conffusion.calibration.families import Family
from conffusion.calibration.fitting import attainable_risk, choose_family, fit_family
from conffusion.calibration.guarantee import Guarantee
from conffusion.calibration.guarantee_parts import GuaranteePart
from conffusion.calibration.guarantees import (
    EveryGroup,
    Guarantees,
    ImageQuantile,
    MeanRisk,
    PromisePart,
    Promises,
    WidestQuarter,
    calibrate_guarantees,
    calibrate_promises,
)
from conffusion.calibration.learn_then_test import LearnThenTest, learn_then_test
from conffusion.calibration.procedure import CalibrationOptions, calibrate
from conffusion.calibration.record import Calibration, CalibrationRecord, read_calibration, write_calibration
from conffusion.calibration.scaling import critical_lambda
from conffusion.calibration.ucb import (
    bentkus_ucb,
    conformal_risk_control_ucb,
    hoeffding_bentkus_ucb,
    hoeffding_ucb,
    official_ucb,
)
from conffusion.calibration.variance import clt_ucb, empirical_bernstein_ucb
from conffusion.core.labelled_bounds import LabelledBounds

__all__ = [
    "Calibration",
    "CalibrationOptions",
    "CalibrationRecord",
    "EveryGroup",
    "Family",
    "Guarantee",
    "GuaranteePart",
    "Guarantees",
    "ImageQuantile",
    "IntervalCalibrator",
    "LabelledBounds",
    "LearnThenTest",
    "MeanRisk",
    "PromisePart",
    "Promises",
    "Selection",
    "WidestQuarter",
    "attainable_risk",
    "bentkus_ucb",
    "calibrate",
    "calibrate_guarantees",
    "calibrate_promises",
    "choose_family",
    "clt_ucb",
    "conformal_risk_control_ucb",
    "critical_lambda",
    "empirical_bernstein_ucb",
    "fit_family",
    "hoeffding_bentkus_ucb",
    "hoeffding_ucb",
    "learn_then_test",
    "official_ucb",
    "read_calibration",
    "star_ucb",
    "write_calibration",
    "wsr_ucb",
]
