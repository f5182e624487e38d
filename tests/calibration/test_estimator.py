"""`IntervalCalibrator`: the numbers of `calibrate`, the interface of scikit-learn."""

import numpy as np
import pytest

from conffusion import IntervalCalibrator
from conffusion.calibration import (
    Family,
    MeanRisk,
    Selection,
    attainable_risk,
    calibrate,
    calibrate_guarantees,
    learn_then_test,
)
from conffusion.errors import CalibrationError, ConfigError
from conffusion.metrics import image_losses

sklearn_base = pytest.importorskip("sklearn.base", reason="needs scikit-learn: pip install scikit-learn")


def images(n_images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    target = generator.uniform(0.1, 0.9, (n_images, 2, 6, 7))
    width = generator.uniform(0.01, 0.1, target.shape)
    middle = target + width * generator.standard_normal(target.shape) * generator.uniform(0.3, 1.5, (n_images, 1, 1, 1))
    return (middle - width).clip(0, 1), (middle + width).clip(0, 1), target


def test_it_is_calibrate() -> None:
    lower, upper, target = images(80)
    mask = (target > 0.3).astype(np.uint8)
    groups = np.arange(80) // 2
    calibrator = IntervalCalibrator(0.15, 0.2, scaling="additive", ucb="wsr")
    assert calibrator.fit(lower, upper, target, mask=mask, groups=groups) is calibrator
    expected = calibrate(
        lower,
        upper,
        target,
        alpha=0.15,
        delta=0.2,
        scaling="additive",
        ucb="wsr",
        mask=mask,
        groups=groups,
        order_seed=0,
    )
    assert calibrator.calibration_ == expected and calibrator.lambda_hat_ == expected.lambda_hat
    for found, wanted in zip(calibrator.transform(lower, upper), expected.apply(lower, upper), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_risk_and_score_are_those_of_the_calibrated_intervals() -> None:
    calibrator = IntervalCalibrator(0.2, 0.2).fit(*images(60))
    lower, upper, target = images(30, seed=1)
    mask, groups = (target > 0.3).astype(np.uint8), np.arange(30) // 3
    losses, _ = image_losses(*calibrator.transform(lower, upper), target, mask)
    assert calibrator.risk(lower, upper, target, mask) == pytest.approx(losses.mean(), abs=1e-12)
    by_group = losses.reshape(10, 3).mean(axis=1).mean()
    assert calibrator.risk(lower, upper, target, mask, groups) == pytest.approx(by_group, abs=1e-12)
    assert calibrator.score(lower, upper, target, mask) == 1 - calibrator.risk(lower, upper, target, mask)
    assert calibrator.risk(*images(60)) == pytest.approx(calibrator.calibration_.risk)


def test_the_narrowest_family_is_chosen_on_other_images() -> None:
    lower, upper, target = images(120)
    selection = images(40, seed=2)
    calibrator = IntervalCalibrator(0.2, 0.2, scaling=("multiplicative", "interval")).fit(
        lower, upper, target, selection=selection
    )
    sizes = calibrator.family_sizes_
    assert set(sizes) == {"multiplicative", "interval"}
    assert calibrator.calibration_.scaling == min(sizes, key=sizes.get)
    fixed = IntervalCalibrator(0.2, 0.2, scaling=calibrator.calibration_.scaling).fit(lower, upper, target)
    assert fixed.lambda_hat_ == calibrator.lambda_hat_ and fixed.family_sizes_ == {}


def test_a_family_with_a_shape_is_fitted_on_the_selection() -> None:
    data = images(80)
    groups = np.arange(40) // 2
    calibrator = IntervalCalibrator(0.3, 0.3, scaling="pixel_groups")
    calibrator.fit(*data, selection=Selection(*images(40, seed=3), groups=groups))
    assert calibrator.calibration_.shape is not None and calibrator.risk(*data) <= 0.3
    again = IntervalCalibrator(0.3, 0.3, scaling=calibrator.calibration_.family).fit(*data)
    assert again.lambda_hat_ == calibrator.lambda_hat_


def test_clone_copies_parameters_and_nothing_fitted() -> None:
    calibrator = IntervalCalibrator(0.3, 0.2, scaling=["additive", "interval"], ucb="wsr")
    calibrator.fit(*images(30), selection=images(30, seed=4))
    copy = sklearn_base.clone(calibrator)
    assert copy.get_params() == calibrator.get_params() and not hasattr(copy, "calibration_")
    with pytest.raises(CalibrationError, match=r"not fitted: call fit"):
        copy.transform(*images(2)[:2])
    shaped = IntervalCalibrator(scaling=Family("additive"))
    assert sklearn_base.clone(shaped).scaling.name == "additive"


def test_set_params_changes_what_fit_looks_at() -> None:
    calibrator = IntervalCalibrator()
    assert calibrator.set_params(alpha=0.3, delta=0.3).get_params()["alpha"] == 0.3
    assert repr(calibrator) == "IntervalCalibrator(alpha=0.3, delta=0.3, scaling='interval', ucb=None)"
    with pytest.raises(ConfigError, match=r"beta = 1: the parameters are alpha, delta"):
        calibrator.set_params(beta=1)


@pytest.mark.parametrize(
    ("scaling", "selection", "message"),
    [
        (("additive", "interval"), None, "give fit a selection"),
        (Family("additive"), images(10), "additive.: is a family already"),
        ("learned", None, "has a shape"),
        ("square", None, "must be one of"),
    ],
)
def test_family_and_selection_have_to_go_together(scaling: object, selection: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IntervalCalibrator(scaling=scaling).fit(*images(30), selection=selection)


def test_sorted_images_do_not_violate_the_risk() -> None:
    generator, n_broken = np.random.default_rng(0), 0
    for _ in range(40):
        misses = np.sort(generator.beta(1, 9, 60))  # true risk 0.1 at scale 1, the best images first
        target = np.full((60, 1, 1, 200), 0.5)
        outside = np.arange(200) < 200 * misses[:, None]
        lower = np.where(outside, 0.55, 0.45)[:, None, None]
        calibrator = IntervalCalibrator(0.12, 0.1, scaling="additive").fit(lower, lower + 0.1, target)
        n_broken += calibrator.lambda_hat_ < -0.01  # below, the truths that are missed are more than a tenth
    assert n_broken <= 12


def test_one_set_of_defaults_which_does_not_depend_on_an_order_that_follows_the_losses() -> None:
    lower, upper, target = images(70, seed=3)
    plain = calibrate(lower, upper, target)
    assert plain == IntervalCalibrator().fit(lower, upper, target).calibration_
    assert plain == calibrate(lower, upper, target, alpha=0.1, delta=0.1, scaling="interval", ucb="star", order_seed=0)
    assert (plain.alpha, plain.delta, plain.scaling, plain.ucb, plain.unit) == (0.1, 0.1, "interval", "star", "image")
    (part,) = calibrate_guarantees(lower, upper, target, [MeanRisk()]).parts
    assert (part.lambda_hat, part.risk_ucb, part.ucb) == (plain.lambda_hat, plain.risk_ucb, plain.ucb)
    losses = image_losses(*plain.apply(lower, upper), target)[0]
    tested = learn_then_test(losses[:, None], [plain.lambda_hat])
    assert (tested.lambda_hat, tested.ucb) == (plain.lambda_hat, "star")
    assert tested.risk_ucb == pytest.approx(plain.risk_ucb, abs=1e-9)
    level = attainable_risk(losses, n=70)
    assert level == attainable_risk(losses, n=70, alpha=0.1, delta=0.1, ucb="star", order_seed=0)
    assert level == pytest.approx(plain.risk, abs=0.005)


@pytest.mark.parametrize("ucb", ["star", "wsr"])
def test_bets_are_placed_in_a_random_order(ucb: str) -> None:
    """Worst losses last: as given, bets would have won before they come."""
    generator, n_violated = np.random.default_rng(0), 0
    for _ in range(60):
        misses = np.sort(generator.beta(1, 9, 60))  # true risk 0.1 at scale 1
        target = np.full((60, 1, 1, 200), 0.5)
        lower = np.where(np.arange(200) < 200 * misses[:, None], 0.55, 0.45)[:, None, None]
        given = {"alpha": 0.1, "delta": 0.1, "scaling": "additive", "ucb": ucb}
        n_violated += calibrate(lower, lower + 0.1, target, **given).lambda_hat < -0.01
    assert n_violated <= 6 + 2 * np.sqrt(60 * 0.09)
