import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from conffusion.calibration import critical_lambda
from conffusion.calibration.scaling import SCALINGS, get_scaling
from conffusion.errors import ConfigError, ShapeError

NAMES = sorted(SCALINGS)
# Values with many exact coincidences, 0 and 1 among them, and arbitrary ones.
shades = st.one_of(st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.75, 1.0]), st.floats(0.0, 1.0, width=32))


def pixels(dtype):
    return npst.arrays(dtype, (3, 40), elements=shades if dtype == np.float64 else st.floats(0.0, 1.0, width=32))


def covers(name, values, scale):
    lower, upper, target = values.astype(np.float64)
    with np.errstate(all="ignore"):
        low, high = SCALINGS[name].apply(lower, upper, scale)
    return (low <= target) & (target <= high)


def by_formula(name, lower, upper, target):
    with np.errstate(all="ignore"):
        if name == "multiplicative":
            return np.maximum(lower / target, target / upper)
        if name == "additive":
            return np.maximum(lower - target, target - upper)
        return np.abs(target - (lower + upper) / 2) / ((upper - lower) / 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_pixel_is_covered_at_its_critical_value_and_not_below(name, dtype, data):
    values = data.draw(pixels(dtype))
    critical = critical_lambda(*values, name)
    finite = critical < np.inf
    critical = np.where(finite, critical, 1.0)
    assert covers(name, values, critical)[finite].all()
    below = critical - 1e-6 * np.maximum(np.abs(critical), 1e-3)
    sizes = values[1].astype(float) - values[0]
    clear = finite & (below > 0 if name != "additive" else True) & ((np.abs(sizes) > 1e-6) | (name != "interval"))
    assert not covers(name, values, np.where(clear, below, 1.0))[clear].any()


@pytest.mark.parametrize("name", NAMES)
@given(values=pixels(np.float32), scales=st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 10.0)))
def test_coverage_grows_with_lambda(name, values, scales):
    critical = critical_lambda(*values, name)
    small, large = sorted(scales)
    counted_small, counted_large = critical <= small, critical <= large
    assert (counted_small <= counted_large).all()
    crossed = (values[1] < values[0]) if name == "interval" else False
    assert (covers(name, values, large) | ~counted_large).all()
    assert (~covers(name, values, large) | counted_large | crossed | (np.abs(critical - large) < 1e-6)).all()


@pytest.mark.parametrize("name", NAMES)
def test_formula(name):
    generator = np.random.default_rng(0)
    lower, middle, upper = np.sort(generator.uniform(0.1, 0.9, (3, 500)), axis=0)
    target = np.where(generator.random(500) < 0.5, middle, generator.uniform(0.1, 0.9, 500))
    expected = by_formula(name, lower, upper, target)
    assert np.allclose(critical_lambda(lower, upper, target, name), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "lower", "upper", "target", "expected"),
    [
        ("multiplicative", 0.2, 0.5, 0.0, np.inf),  # 0 is never reached from above
        ("multiplicative", 0.0, 0.0, 0.1, np.inf),
        ("multiplicative", 0.0, 0.5, 0.0, 0.0),  # covered by every positive lambda
        ("multiplicative", 0.0, 0.0, 0.0, 0.0),
        ("multiplicative", 1.0, 1.0, 1.0, 1.0),
        ("multiplicative", 0.5, 0.25, 0.25, 2.0),  # crossed: the lower end decides
        ("additive", 0.25, 0.5, 0.375, -0.125),
        ("additive", 0.5, 0.25, 0.25, 0.25),
        ("interval", 0.5, 0.5, 0.5, 0.0),
        ("interval", 0.5, 0.5, 0.75, np.inf),
        ("interval", 0.5, 0.25, 0.25, np.inf),
        ("interval", 0.25, 0.75, 1.0, 2.0),
    ],
)
def test_special_values(name, lower, upper, target, expected):
    assert critical_lambda(*(np.array([value]) for value in (lower, upper, target)), name)[0] == expected


def test_torch_nan_and_shapes():
    values = np.random.default_rng(1).random((3, 2, 3, 4, 5), dtype=np.float32)
    ours = critical_lambda(*map(torch.from_numpy, values), "additive")
    assert isinstance(ours, np.ndarray)
    assert ours.dtype == np.float64
    assert np.array_equal(ours, critical_lambda(*values, "additive"))
    values[1, 0, 0, 0, 0] = np.nan
    for name in NAMES:
        assert np.isnan(critical_lambda(*values, name)).sum() == 1
    with pytest.raises(ShapeError, match="upper"):
        critical_lambda(values[0], values[1][:1], values[2], "additive")
    with pytest.raises(ConfigError, match="multiplicative, additive, interval"):
        get_scaling("other")
