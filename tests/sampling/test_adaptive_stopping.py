"""When the variants of an image are enough: the stated standard error is the one that repeated draws show."""

import numpy as np
import pytest

from conffusion.sampling import AdaptiveStopping
from conffusion.sampling.adaptive_stopping import standard_error

ALL = np.ones((3, 8, 8), np.uint8)


@pytest.mark.parametrize("n_variants", [20, 50, 200])
@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_standard_error_is_the_spread_of_repeated_estimates(n_variants: int, draw: str) -> None:
    generator = np.random.default_rng(0)
    shape = (n_variants, *ALL.shape)
    drawn = [generator.normal(0.5, 0.1, shape) if draw == "normal" else generator.random(shape) for _ in range(200)]
    estimates = np.array([np.quantile(variants, [0.05, 0.95], axis=0) for variants in drawn])
    true_error = np.sqrt(estimates.var(axis=0).mean())
    stated = np.mean([standard_error(variants, ALL, 0.05) for variants in drawn])
    assert stated == pytest.approx(true_error, rel=0.35)


def test_only_evaluated_pixels_count() -> None:
    variants = np.random.default_rng(0).random((30, 3, 8, 8))
    mask = np.zeros((3, 8, 8), np.uint8)
    mask[:, 2:4] = 1
    alone = standard_error(variants[:, :, 2:4], np.ones((3, 2, 8), np.uint8), 0.05)
    assert standard_error(variants, mask, 0.05) == alone


def test_whole_numbers_are_read_in_units_of_the_pixel_range() -> None:
    variants = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    assert standard_error(variants, ALL, 0.05) == pytest.approx(standard_error(variants / 255, ALL, 0.05), rel=1e-9)


def test_drawing_stops_when_the_error_is_at_most_the_precision() -> None:
    variants = np.random.default_rng(0).normal(0.5, 0.1, (40, 3, 8, 8))
    error = standard_error(variants, ALL, 0.05)
    assert AdaptiveStopping(error, 0.05, 8).should_stop(variants, ALL)
    assert not AdaptiveStopping(0.99 * error, 0.05, 8).should_stop(variants, ALL)
    assert AdaptiveStopping(1e-9, 0.05, 8).should_stop(np.repeat(variants[:1], 8, axis=0), ALL)
