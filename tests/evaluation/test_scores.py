import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conffusion.errors import ShapeError
from conffusion.evaluation.scores import crps


@given(n_variants=st.integers(2, 12), seed=st.integers(0, 1000))
def test_crps_is_its_definition(n_variants: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    variants, target = generator.normal(size=(n_variants, 2, 3)), generator.normal(size=(2, 3))
    error = np.abs(variants - target).mean(axis=0)
    spread = np.abs(variants[:, None] - variants[None]).sum(axis=(0, 1)) / (2 * n_variants * (n_variants - 1))
    np.testing.assert_allclose(crps(variants, target), error - spread, atol=1e-12)


def test_mean_crps_does_not_depend_on_the_number_of_variants() -> None:
    """For a normal forecast of its own distribution the score is 1 / sqrt(pi)."""
    generator = np.random.default_rng(0)
    for n_variants in (2, 5, 20):
        variants, target = generator.normal(size=(n_variants, 60_000)), generator.normal(size=60_000)
        assert crps(variants, target).mean() == pytest.approx(np.pi**-0.5, abs=0.012)


def test_whole_numbers_do_not_overflow() -> None:
    variants = np.array([[250], [255], [3]], dtype=np.uint8)
    assert crps(variants, np.array([0], np.uint8)) == pytest.approx((250 + 255 + 3) / 3 - (5 + 247 + 252) / 6)


@pytest.mark.parametrize("variants", [np.zeros((1, 4)), np.zeros((3, 5))])
def test_shapes_that_do_not_fit_are_refused(variants: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="must be"):
        crps(variants, np.zeros(4))
