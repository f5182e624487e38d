"""Calibration with losses bet on in the order given, under a plain family and bound: numbers to be found by hand."""

from functools import partial

from conffusion import calibration

calibrate = partial(calibration.calibrate, scaling="multiplicative", ucb="wsr", order_seed=None)
calibrate_guarantees = partial(calibration.calibrate_guarantees, scaling="multiplicative", ucb="wsr", order_seed=None)
learn_then_test = partial(calibration.learn_then_test, ucb="hoeffding_bentkus", order_seed=None)
attainable_risk = partial(calibration.attainable_risk, ucb="wsr", order_seed=None)
