"""The one statement of the guarantee: what it says, of which unit, and that it says where nothing holds."""

import pytest

from conffusion.calibration import Calibration
from conffusion.calibration.guarantee import Guarantee
from conffusion.calibration.risk_bounds import BOUNDS


def test_it_names_the_unit_and_its_numbers() -> None:
    assert str(Guarantee(0.1, 0.1, "image", 200, 200)) == (
        "With probability at least 90 % over the draw of the 200 calibration images, at most 10 % of the true pixel"
        " values of new images like them lie outside their intervals, on average over images."
    )
    assert str(Guarantee(0.1, 0.05, "group", 1200, 6000)) == (
        "With probability at least 95 % over the draw of the 1,200 calibration groups (6,000 images), at most 10 % of"
        " the true pixel values of new groups like them lie outside their intervals, on average over groups."
    )


def test_before_calibration_it_names_no_numbers() -> None:
    assert "over the draw of the calibration images, at most 10 %" in str(Guarantee(0.1, 0.1))
    assert "1 calibration image," in str(Guarantee(0.1, 0.1, n=1))


def test_the_risk_level_is_written_exactly() -> None:
    assert "at most 2.5 % of" in str(Guarantee(0.025, 0.1))
    assert "at least 99.5 % over" in str(Guarantee(0.1, 0.005))


def test_pixels_guarantee_nothing() -> None:
    guarantee = Guarantee(0.025, 0.1, "pixel", 98304, 2, "hoeffding_bentkus")
    assert not guarantee.holds
    assert str(guarantee) == (
        "Nothing is guaranteed: the calibration counts 98,304 pixel values of 2 images as if they were independent. It"
        " aims at 2.5 % of true pixel values outside their intervals."
    )


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_it_claims_what_its_bound_guarantees(name: str) -> None:
    guarantee = Guarantee(0.1, 0.1, "image", 50, 50, name)  # type: ignore[arg-type]
    starts = {
        "finite_sample": "With probability at least 90 %",
        "asymptotic": "Only in the limit",
        "mean_only": "On average over draws",
        "none": "Nothing is guaranteed",
    }
    assert guarantee.strength == BOUNDS[name].strength
    assert str(guarantee).startswith(starts[guarantee.strength])
    assert guarantee.holds == (guarantee.strength == "finite_sample")


def test_a_calibration_tells_its_guarantee() -> None:
    calibration = Calibration(1.0, 0.05, 0.09, 40, 0.1, 0.2, "interval", "wsr", "group", 120)
    assert calibration.guarantee == Guarantee(0.1, 0.2, "group", 40, 120, "wsr")
