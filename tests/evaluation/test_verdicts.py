"""What an evaluation says: limits that hold, and sentences that follow from them."""

import numpy as np
import pytest

from conffusion.inference.verdicts import evaluation_verdict, measure_risk, measure_unit_risk


def test_limits_hold_as_often_as_they_say() -> None:
    generator, n_draws = np.random.default_rng(0), 600
    too_high = too_low = 0
    for _ in range(n_draws):
        measured = measure_risk(generator.beta(1.0, 9.0, 60), "image")  # true mean 0.1
        assert measured.low < measured.risk < measured.high
        too_high += measured.low > 0.1
        too_low += measured.high < 0.1
    allowed = 0.05 + 2 * np.sqrt(0.05 * 0.95 / n_draws)
    assert too_high / n_draws <= allowed and too_low / n_draws <= allowed


def test_limits_are_tight_enough_to_find_a_broken_promise() -> None:
    losses = np.random.default_rng(1).beta(2.0, 11.0, 65)  # about 0.15, as different as photographs are
    assert 0.1 < measure_risk(losses, "group").low < losses.mean()


def test_groups_count_once() -> None:
    losses, groups = np.array([0.0, 0.2, 0.6]), np.array(["a", "a", "b"])
    measured = measure_unit_risk(losses, groups)
    assert (measured.risk, measured.n, measured.unit) == (pytest.approx(0.35), 2, "group")
    assert measure_unit_risk(losses, None).risk == pytest.approx(0.8 / 3)


@pytest.mark.parametrize(
    ("mean", "spread", "words"),
    [(0.05, 0.01, "Kept on these images"), (0.12, 0.2, "can show that by chance"), (0.4, 0.01, "BROKEN")],
)
def test_the_verdict_follows_from_the_limits(mean: float, spread: float, words: str) -> None:
    losses = np.clip(np.random.default_rng(0).normal(mean, spread, 40), 0, 1)
    losses += mean - losses.mean()
    assert words in evaluation_verdict(measure_risk(np.clip(losses, 0, 1), "image"), 0.1)


def test_drift_is_said_beside_the_verdict() -> None:
    text = evaluation_verdict(measure_risk(np.full(30, 0.05), "image"), 0.1, "they differ")
    assert text.endswith("Warning: they differ.")


def test_one_image_has_no_standard_error() -> None:
    text = evaluation_verdict(measure_risk(np.array([0.05]), "image"), 0.1)
    assert text.startswith("5.00% of the true pixel values lie outside their intervals (1 image);")
