import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conffusion.bounds import sampled_bounds, sort_bounds
from conffusion.errors import ConfigError, DataError, ShapeError
from tests import conformance


def test_sampled_bounds_reproduce_the_official_quantiles():
    description, arrays = conformance.load("stats/sampled_quantiles")
    variants = conformance.make(description["inputs"]["samples"])
    lower, upper = sampled_bounds(variants, 0.05, 0.95)
    also_lower, _ = sampled_bounds(variants, 1 - 0.95, 0.96)
    assert lower.dtype == upper.dtype == np.float32
    assert conformance.max_diff(description, arrays, "lower_q0.05", lower) < 1e-6
    assert conformance.max_diff(description, arrays, "upper_q0.95", upper) < 1e-6
    assert conformance.max_diff(description, arrays, "lower_q_1_minus_0.95", also_lower) < 1e-6


@given(
    n_variants=st.integers(2, 40),
    levels=st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: pair[0] != pair[1]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 1000),
)
def test_sampled_bounds_are_the_linear_quantiles(n_variants, levels, dtype, seed):
    variants = np.random.default_rng(seed).normal(size=(n_variants, 2, 5)).astype(dtype)
    bounds = sampled_bounds(variants, *sorted(levels))
    assert np.allclose(bounds, np.quantile(variants, sorted(levels), axis=0), atol=1e-6)
    assert (bounds[0] <= bounds[1]).all()
    assert bounds[0].dtype == dtype


def test_sampled_bounds_of_large_integer_and_torch_variants():
    variants = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 40), dtype=np.uint8)
    kept = variants.copy()
    lower, upper = sampled_bounds(variants, 0.05, 0.95)
    assert lower.dtype == np.float32
    assert np.allclose((lower, upper), np.quantile(variants, [0.05, 0.95], axis=0), atol=1e-4)
    assert np.array_equal(variants, kept)
    tensor = torch.from_numpy(variants).float().requires_grad_()
    for ours, numpy_bound in zip(sampled_bounds(tensor, 0.05, 0.95), (lower, upper), strict=True):
        assert torch.is_tensor(ours)
        assert ours.dtype == torch.float32
        assert np.array_equal(ours.numpy(), numpy_bound)


def test_bad_variants_and_quantiles():
    variants = np.zeros((4, 3))
    for levels in [(0.95, 0.05), (0.5, 0.5), (-0.1, 0.5), (0.1, 1.1), (float("nan"), 0.5)]:
        with pytest.raises(ConfigError, match="quantiles"):
            sampled_bounds(variants, *levels)
    for few in (variants[:1], np.float32(1.0)):
        with pytest.raises(ShapeError, match="at least 2"):
            sampled_bounds(few, 0.05, 0.95)
    variants[2, 1] = np.nan
    with pytest.raises(DataError, match="NaN"):
        sampled_bounds(variants, 0.05, 0.95)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_sort_bounds_swaps_and_counts_crossed_pairs(convert):
    lower, upper = np.array([[0.1, 0.6, 0.3]]), np.array([[0.2, 0.5, 0.3]])
    first, second = convert(lower), convert(upper)
    low, high, n_crossed = sort_bounds(first, second)
    assert type(low) is type(high) is type(first)
    assert np.array_equal(low, [[0.1, 0.5, 0.3]])
    assert np.array_equal(high, [[0.2, 0.6, 0.3]])
    assert (n_crossed, type(n_crossed)) == (1, int)
    assert np.array_equal(first, lower)
    with pytest.raises(ShapeError):
        sort_bounds(first, second[:, :2])
