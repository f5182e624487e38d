"""Noise schedules equal the official ones and keep their invariants for any setting."""

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conffusion.core.choices import ScheduleName
from conffusion.errors import ConfigError
from conffusion.models.schedules import SCHEDULES, NoiseSchedule, noise_schedule
from tests import conformance

FIXTURES = sorted(path.stem for path in (conformance.ROOT / "schedules").glob("*.json"))
NAMES = get_args(ScheduleName)


def official(description: dict[str, Any]) -> NoiseSchedule:
    """Our schedule from the keys of the official configuration."""
    keys = description["schedule"]
    if "steps" in keys:  # guided diffusion
        respacing = int(keys["timestep_respacing"]) if keys["timestep_respacing"] else None
        return noise_schedule(
            keys["noise_schedule"], keys["steps"], linear_start=1e-4, linear_end=0.02, respacing=respacing
        )
    return noise_schedule(
        keys["schedule"], keys["n_timestep"], linear_start=keys["linear_start"], linear_end=keys["linear_end"]
    )


def derived(schedule: NoiseSchedule) -> dict[str, Any]:
    """Arrays of a schedule under their official names."""
    abar = schedule.alphas_cumprod
    weight_x0, weight_xt = schedule.posterior_mean_coefficients
    coefficients = np.array([schedule.clean_image_coefficients(t) for t in range(schedule.n_timesteps)])
    return {
        "betas": schedule.betas,
        "betas_float64": schedule.betas,
        "alphas_cumprod": abar,
        "gammas": abar,
        "alphas_cumprod_prev": schedule.alphas_cumprod_prev,
        "sqrt_alphas_cumprod_prev": np.sqrt(np.append(1, abar)),
        "posterior_variance": schedule.posterior_variance,
        "posterior_mean_coef1": weight_x0,
        "posterior_mean_coef2": weight_xt,
        "sqrt_recip_alphas_cumprod": coefficients[:, 0],
        "sqrt_recipm1_alphas_cumprod": coefficients[:, 1],
        "sqrt_recip_gammas": coefficients[:, 0],
        "sqrt_recipm1_gammas": coefficients[:, 1],
        "timestep_map": schedule.timestep_map,
    }


def test_all_fixtures_are_there() -> None:
    assert len(FIXTURES) == 8


@pytest.mark.parametrize("name", FIXTURES)
def test_schedule_equals_the_official_arrays(name: str) -> None:
    description, arrays = conformance.load(f"schedules/{name}")
    ours = derived(official(description))
    compared = [key for key in arrays if key in ours]
    assert len(compared) >= 6
    for key in compared:
        assert ours[key].shape == arrays[key].shape, key
        rtol = 1e-5 if arrays[key].dtype == np.float32 else 1e-10
        np.testing.assert_allclose(ours[key], arrays[key], rtol=rtol, atol=1e-30, err_msg=key)


def test_respacing_maps_to_the_original_steps() -> None:
    full = noise_schedule("linear", 1000)
    kept = noise_schedule("linear", 1000, respacing=250)
    assert kept.n_timesteps == 250
    assert kept.timestep_map[[0, 3, 15, -1]].tolist() == [0, 12, 60, 999]
    np.testing.assert_allclose(kept.alphas_cumprod, full.alphas_cumprod[kept.timestep_map], rtol=1e-12)


def test_without_respacing_every_step_maps_to_itself() -> None:
    assert noise_schedule("cosine", 7).timestep_map.tolist() == list(range(7))


@pytest.mark.parametrize("respacing", [0, 11])
def test_impossible_respacing_is_refused(respacing: int) -> None:
    with pytest.raises(ConfigError, match=f"respacing = {respacing}.*n_timesteps = 10"):
        noise_schedule("linear", 10, respacing=respacing)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'cosin' is unknown.*cosine"):
        noise_schedule("cosin", 10)


def test_quadratic_constant_and_warm_up_schedules_by_hand() -> None:
    ends = {"linear_start": 0.01, "linear_end": 0.09}
    np.testing.assert_allclose(noise_schedule("quad", 3, **ends).betas, [0.01, 0.04, 0.09])
    np.testing.assert_allclose(noise_schedule("const", 3, **ends).betas, [0.09] * 3)
    np.testing.assert_allclose(noise_schedule("warmup50", 4, **ends).betas, [0.01, 0.09, 0.09, 0.09])
    np.testing.assert_allclose(noise_schedule("warmup10", 20, **ends).betas, [0.01, *[0.09] * 19])


@given(
    st.sampled_from(NAMES),
    st.integers(2, 300),
    st.floats(1e-6, 0.01),
    st.floats(1, 50),
    st.floats(1e-4, 0.1),
    st.floats(0.02, 1),
)
def test_signal_falls_and_variances_stay_within_bounds(
    name: str, n_timesteps: int, start: float, growth: float, offset: float, kept: float
) -> None:
    respacing = max(1, int(kept * n_timesteps))
    schedule = noise_schedule(
        name, n_timesteps, linear_start=start, linear_end=start * growth, cosine_s=offset, respacing=respacing
    )
    abar = schedule.alphas_cumprod
    assert schedule.n_timesteps == respacing
    assert ((schedule.betas > 0) & (schedule.betas < 1)).all()
    assert ((abar > 0) & (abar < 1)).all()
    assert (np.diff(abar) < 0).all()
    assert (np.diff(schedule.timestep_map) > 0).all()
    assert ((schedule.posterior_variance >= 0) & (schedule.posterior_variance <= schedule.betas)).all()
    assert schedule.posterior_variance[0] == 0


@given(st.sampled_from(NAMES), st.integers(2, 100), st.integers(0, 99), st.floats(-3, 3), st.floats(-1, 1))
def test_clean_image_coefficients_invert_the_noising(
    name: str, n_timesteps: int, step: int, noise: float, clean: float
) -> None:
    schedule = noise_schedule(name, n_timesteps)
    t = step % n_timesteps
    abar = schedule.alphas_cumprod[t]
    a, b = schedule.clean_image_coefficients(t)
    noised = math.sqrt(abar) * clean + math.sqrt(1 - abar) * noise
    assert a * noised - b * noise == pytest.approx(clean, abs=1e-9 * max(1.0, a))


def test_configured_schedules_are_those_that_exist() -> None:
    assert set(get_args(ScheduleName)) == set(SCHEDULES)
