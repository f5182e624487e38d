"""What an evaluation says: limits that hold, and sentences that follow from them."""

from dataclasses import replace

import numpy as np
import pytest

from conffusion.calibration import Calibration
from conffusion.evaluation.verdicts import MeasuredRisk, calibration_verdict, evaluation_verdict, measure_risk


def test_limits_hold_as_often_as_they_say() -> None:
    generator, n_draws = np.random.default_rng(0), 600
    too_high = too_low = 0
    for _ in range(n_draws):
        measured = measure_risk(generator.beta(1.0, 9.0, 60))  # true mean 0.1
        assert measured.low < measured.risk < measured.high
        too_high += measured.low > 0.1
        too_low += measured.high < 0.1
    allowed = 0.05 + 2 * np.sqrt(0.05 * 0.95 / n_draws)
    assert too_high / n_draws <= allowed and too_low / n_draws <= allowed


def test_limits_are_tight_enough_to_find_a_violated_risk() -> None:
    losses = np.random.default_rng(1).beta(2.0, 11.0, 65)  # about 0.15, as different as photographs are
    assert 0.1 < measure_risk(losses).low < losses.mean()


def test_groups_count_once() -> None:
    losses, groups = np.array([0.0, 0.2, 0.6]), np.array(["a", "a", "b"])
    measured = measure_risk(losses, groups)
    assert (measured.risk, measured.n, measured.unit) == (pytest.approx(0.35), 2, "group")
    assert measure_risk(losses).risk == pytest.approx(0.8 / 3)


@pytest.mark.parametrize(
    ("mean", "spread", "words"),
    [
        (0.05, 0.01, "Risk controlled on these images"),
        (0.12, 0.2, "can show that by chance"),
        (0.4, 0.01, "Risk VIOLATED"),
    ],
)
def test_the_verdict_follows_from_the_limits(mean: float, spread: float, words: str) -> None:
    losses = np.clip(np.random.default_rng(0).normal(mean, spread, 40), 0, 1)
    losses += mean - losses.mean()
    assert words in evaluation_verdict(measure_risk(np.clip(losses, 0, 1)), 0.1)


def test_drift_is_said_beside_the_verdict() -> None:
    text = evaluation_verdict(measure_risk(np.full(30, 0.05)), 0.1, "they differ")
    assert text.endswith("Warning: they differ.")


def test_one_image_has_no_standard_error() -> None:
    text = evaluation_verdict(measure_risk(np.array([0.05])), 0.1)
    assert text.startswith("5.00 % of the true pixel values lie outside their intervals (1 image);")


def measured(risk: float, low: float = 0.0, high: float = 1.0) -> MeasuredRisk:
    return MeasuredRisk(risk, 0.001, low, high, 40, "image")


def test_a_risk_just_above_the_level_is_not_printed_as_controlled() -> None:
    text = evaluation_verdict(measured(0.024), 0.02)
    assert "2.40 % of the true" in text and "at most 2 % on average" in text and "Undecided" in text
    assert "2.501 % of the true" not in evaluation_verdict(measured(0.025), 0.025)
    assert evaluation_verdict(measured(0.0250001), 0.025).startswith("2.51 % of the true")
    assert "at most 2.5 % on average" in evaluation_verdict(measured(0.02), 0.025)


@pytest.mark.parametrize(
    ("risk", "low", "status"),
    [(0.1, 0.05, "controlled"), (0.1 + 1e-12, 0.1, "undecided"), (0.2, 0.1 + 1e-12, "violated")],
)
def test_the_status_is_that_of_the_exact_numbers(risk: float, low: float, status: str) -> None:
    assert measured(risk, low).status(0.1) == status


def test_what_few_images_cannot_show_is_said() -> None:
    assert "as high as 30.00 %" in evaluation_verdict(measured(0.05, 0.01, 0.3), 0.1)
    assert "as high as" not in evaluation_verdict(measured(0.05, 0.01, 0.09), 0.1)


def test_a_calibration_says_its_guarantee_and_never_rounds_down() -> None:
    new = Calibration(1.5, 0.01801, 0.02499, 200, 0.025, 0.1, "interval", "star", "image", 200)
    text = calibration_verdict(new, before=0.05, packaged=replace(new, lambda_hat=1.2))
    assert text.startswith(str(new.guarantee)) and "at most 2.5 % of the true" in text
    assert "1.81 % of the values lie outside" in text and "(`star`) is 2.50 %" in text
    assert "5.00 % of the values" in text and "would have missed too many" in text
    assert "was wide enough" in calibration_verdict(new, before=0.025, packaged=new)
