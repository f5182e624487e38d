"""Bounds of one image before the scale, and the interval that they become."""

import numpy as np
import pytest

from conffusion import Interval
from conffusion.calibration import Calibration, calibrate
from conffusion.errors import DataError, ShapeError
from conffusion.evaluation.drift import given_features, interval_features
from conffusion.inference.evidence import Evidence
from conffusion.inference.interval import UncalibratedInterval, checked_mask

RNG = np.random.default_rng(0)
SHAPE = (3, 6, 7)
MIDDLE = RNG.uniform(0.2, 0.8, SHAPE)
LOWER, UPPER = MIDDLE - 0.1, MIDDLE + 0.05
GIVEN = RNG.random(SHAPE).astype(np.float32)
HOLE = np.zeros(SHAPE[1:], np.uint8)
HOLE[2:5, 1:4] = 1


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    target = RNG.uniform(0.3, 0.7, (60, 1, 5, 5))
    middle = target + 0.1 * RNG.standard_normal(target.shape)
    return calibrate(middle - 0.1, middle + 0.1, target, scaling="additive", alpha=0.2, delta=0.2)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence(np.zeros(40), RNG.standard_normal((40, 10)), None)


def test_bounds_are_scaled_and_clipped(calibration: Calibration, evidence: Evidence) -> None:
    uncalibrated = UncalibratedInterval(LOWER, UPPER, MIDDLE, "point_head", n_tiles=3, odd_holes=True)
    interval = uncalibrated.calibrated(calibration, evidence)
    reach = calibration.lambda_hat
    np.testing.assert_array_equal(interval.lower, (LOWER - reach).clip(0, 1).astype(np.float32))
    np.testing.assert_array_equal(interval.upper, (UPPER + reach).clip(0, 1).astype(np.float32))
    np.testing.assert_array_equal(interval.estimate, MIDDLE.astype(np.float32))
    assert (interval.mask, interval.n_tiles, interval.odd_holes) == (None, 3, True)
    assert interval.image_p_value == evidence.image_p_value(uncalibrated.features)
    np.testing.assert_array_equal(interval.features, uncalibrated.features)


def test_a_midpoint_is_that_of_the_calibrated_interval(calibration: Calibration, evidence: Evidence) -> None:
    low = UncalibratedInterval(LOWER - 0.5, UPPER, MIDDLE, "midpoint").calibrated(calibration, evidence)
    np.testing.assert_allclose(low.estimate, (low.lower + low.upper) / 2, atol=1e-6)


def test_known_pixels_are_points(calibration: Calibration, evidence: Evidence) -> None:
    interval = UncalibratedInterval(LOWER, UPPER, MIDDLE, "midpoint", HOLE).calibrated(calibration, evidence)
    for array in (interval.lower, interval.upper, interval.estimate):
        np.testing.assert_array_equal(array[:, HOLE == 0], MIDDLE[:, HOLE == 0].astype(np.float32))
    assert interval.size_mean == pytest.approx(interval.size[:, HOLE == 1].mean())
    assert interval.risk(np.zeros(SHAPE)) == 1 - (interval.lower[:, HOLE == 1] == 0).mean()


def test_features_are_those_of_the_drift_check() -> None:
    clipped = LOWER.clip(0, 1)[None], UPPER.clip(0, 1)[None]
    of_interval, of_hole = (interval_features(*clipped, mask)[0] for mask in (None, HOLE[None, None]))
    np.testing.assert_array_equal(UncalibratedInterval(LOWER, UPPER, MIDDLE, "midpoint").features, of_interval)
    seen = UncalibratedInterval(LOWER, UPPER, MIDDLE, "midpoint", given=GIVEN)
    np.testing.assert_array_equal(seen.features, [*of_interval, *given_features(GIVEN[None])[0]])
    around = UncalibratedInterval(LOWER, UPPER, MIDDLE, "midpoint", HOLE, GIVEN)
    known = given_features(GIVEN[None], 1 - HOLE[None, None])[0]
    np.testing.assert_array_equal(around.features, [*of_hole, *known])


def test_everything_missing_is_described_by_what_stands_there() -> None:
    nothing_known = np.ones_like(HOLE)
    features = UncalibratedInterval(LOWER, UPPER, MIDDLE, "midpoint", nothing_known, GIVEN).features
    np.testing.assert_array_equal(features[10:], given_features(GIVEN[None])[0])


def test_truths_of_another_shape_are_refused() -> None:
    interval = Interval(LOWER, UPPER, MIDDLE, "midpoint")
    assert interval.contains(MIDDLE).all() and interval.risk(MIDDLE + 0.06) == 1
    with pytest.raises(ShapeError, match=r"target has shape \(3, 6, 8\)"):
        interval.contains(np.zeros((3, 6, 8)))


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.full((2, 2), 0.5), np.full((2, 2), 2)])
def test_masks_of_other_values_are_refused(mask: np.ndarray) -> None:
    with pytest.raises(DataError, match="0 and 1 only, and 1 at one pixel at least"):
        checked_mask(mask)
    assert checked_mask(np.eye(2, dtype=bool)).dtype == np.uint8
