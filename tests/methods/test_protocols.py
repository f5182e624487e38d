"""The two protocols: what their bound counts, which bound and family they use, whether groups matter."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zarr

from conffusion.calibration import Calibration
from conffusion.config.schema import CalibrationSettings
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import CalibrationError
from conffusion.methods.protocols import PROTOCOLS, get_protocol, official_grid
from conffusion.methods.quirks import NO_QUIRK
from conffusion.methods.registry import get_method
from tests import conformance
from tests.calibration_in_order import calibrate

SETTINGS = CalibrationSettings(alpha=0.2, delta=0.1, ucb="hoeffding", families=["additive"])
LOWER, UPPER, TARGET = conformance.synthetic_bounds(3, 120, 3, 6, 6, 0.7)
MASK = np.zeros(TARGET.shape, dtype=np.uint8)
MASK[..., 1:5, 1:5] = 1
IMAGES = LabelledBounds(LOWER, UPPER, TARGET, MASK)
GROUPS = np.array([f"person-{k // 2}" for k in range(120)], dtype=object)


def calibration(protocol: str, **changes: Any) -> Calibration:
    groups, settings = changes.pop("groups", None), changes.pop("settings", SETTINGS)
    return PROTOCOLS[protocol].calibrate(replace(IMAGES, groups=groups), settings, **changes)


def test_there_are_the_two_of_the_contract() -> None:
    assert list(PROTOCOLS) == ["paper", "guaranteed"]
    assert PROTOCOLS["paper"].selected_on == "calibration"
    assert PROTOCOLS["guaranteed"].selected_on == "selection"
    assert [protocol.sorts_bounds for protocol in PROTOCOLS.values()] == [False, True]


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_paper_counts_evaluated_pixel_values_whatever_is_configured(groups: Any) -> None:
    result = calibration("paper", groups=groups)
    assert (result.unit, result.ucb, result.scaling) == ("pixel", "official", "multiplicative")
    assert result.n == 120 * 3 * 4 * 4
    expected = calibrate(
        LOWER, UPPER, TARGET, alpha=0.2, delta=0.1, mask=MASK, unit="pixel", ucb="official", scaling="multiplicative"
    )
    assert result.lambda_hat == expected.lambda_hat


def test_guaranteed_counts_images_under_the_configured_bound_and_family() -> None:
    result = calibration("guaranteed")
    assert (result.unit, result.ucb, result.scaling, result.n) == ("image", "hoeffding", "additive", 120)
    assert result.risk_ucb <= SETTINGS.alpha


def test_guaranteed_counts_groups_where_the_data_have_them() -> None:
    result = calibration("guaranteed", groups=GROUPS)
    assert (result.unit, result.n) == ("group", 60)
    assert result.lambda_hat > calibration("guaranteed").lambda_hat  # fewer units, wider intervals


def test_paper_is_more_daring_than_guaranteed() -> None:
    same_family = SETTINGS.model_copy(update={"families": ["multiplicative"]})
    assert calibration("paper").lambda_hat < calibration("guaranteed", settings=same_family).lambda_hat


def test_too_few_images_name_the_number_needed() -> None:
    with pytest.raises(CalibrationError, match=r"\d+ images"):
        PROTOCOLS["guaranteed"].calibrate(IMAGES.take(np.arange(4)), SETTINGS)


# ---- official quirks


def test_quirks_concern_the_paper_rows_alone() -> None:
    assert get_protocol("paper", official_quirks=True).official_quirks
    assert not get_protocol("guaranteed", official_quirks=True).official_quirks
    assert get_protocol("paper") == PROTOCOLS["paper"]
    assert get_protocol("guaranteed", official_quirks=True).quirk(200, calibrating=True) == NO_QUIRK
    quirky = get_protocol("paper", official_quirks=True)
    assert quirky.quirk(200, calibrating=True).dropout and not quirky.quirk(200, calibrating=False).dropout
    assert quirky.quirk(200, calibrating=True) != quirky.quirk(400, calibrating=True)


@pytest.mark.parametrize(
    ("task", "method", "grid"),
    [
        ("super_resolution", "n_conffusion", (0.9, 1.3, 1000)),
        ("super_resolution", "dm_sb", (0.9, 1.3, 1000)),
        ("super_resolution", "g_conffusion", (0.8, 5.0, 1000)),
        ("inpainting", "dm_sba", (0.9, 2.5, 1000)),
        ("inpainting", "g_conffusion", (0.9, 2.5, 1000)),
        ("denoising", "n_conffusion", None),
    ],
)
def test_official_grids(task: str, method: str, grid: Any) -> None:
    assert official_grid(task, get_method(method)) == grid


def test_grid_is_scanned_under_quirks_only() -> None:
    grid = (0.8, 3.0, 50)
    exact = PROTOCOLS["paper"].calibrate(IMAGES, SETTINGS, grid=grid)
    assert exact == calibration("paper")
    scanned = get_protocol("paper", official_quirks=True).calibrate(IMAGES, SETTINGS, grid=grid)
    step = 2.2 / 49
    assert 0 <= scanned.lambda_hat - exact.lambda_hat <= step * 1.001
    assert scanned.risk_ucb <= SETTINGS.alpha


def test_grid_that_passes_everywhere_ends_above_its_top() -> None:
    quirky, grid = get_protocol("paper", official_quirks=True), (3.0, 4.0, 11)
    stored = LabelledBounds(*(zarr.array(array) for array in (LOWER, UPPER, TARGET, MASK)))  # as in the workflow
    result = quirky.calibrate(stored, SETTINGS, grid=grid)
    assert result.lambda_hat == pytest.approx(4.1, abs=1e-8)
    assert quirky.is_feasible(result)


def test_grid_without_a_feasible_scale_gives_its_largest_one_without_a_word() -> None:
    top = 0.9
    settings = SETTINGS.model_copy(update={"alpha": 0.01})
    quirky = get_protocol("paper", official_quirks=True)
    result = quirky.calibrate(IMAGES, settings, grid=(0.8, top, 50))
    assert result.lambda_hat == top
    assert not quirky.is_feasible(result)
    lower, upper = result.apply(LOWER, UPPER)
    missed = ((TARGET < lower) | (TARGET > upper))[MASK > 0].mean()
    assert result.risk == pytest.approx(missed)
    assert result.n == 120 * 3 * 4 * 4
