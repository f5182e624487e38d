import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conffusion.calibration.features import pixel_features
from conffusion.errors import ShapeError
from tests import synthetic_families

SHAPES = [(3, 8, 8), (1, 5, 9), (2, 9, 4), (3, 1, 1), (1, 1, 1), (3, 1, 7), (1, 6, 1), (4, 2, 2)]


def as_doubles(*arrays):
    return [np.asarray(array, dtype=np.float64) for array in arrays]


@pytest.mark.parametrize("shape", SHAPES)
def test_number_of_features_depends_on_the_channels_alone(shape):
    lower, upper = as_doubles(*synthetic_families.images(2, shape)[:2])
    features = pixel_features(lower, upper)
    assert features.shape == (37 + 3 * shape[0], 2, *shape)
    assert features.dtype == np.float32


@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(SHAPES), values=st.lists(st.floats(-0.5, 1.5), max_size=4))
def test_features_are_finite_for_any_bounds(seed, shape, values):
    generator = np.random.default_rng(seed)
    lower, upper = generator.choice([0.0, 1.0, 0.5, 1e-12, *values], (2, 2, *shape))
    assert np.isfinite(pixel_features(lower, upper)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_features_of_an_image_come_from_its_own_bounds_bit_for_bit(shape):
    lower, upper = as_doubles(*synthetic_families.images(5, shape)[:2])
    together = pixel_features(lower, upper)
    for k in range(5):
        assert np.array_equal(pixel_features(lower[k : k + 1], upper[k : k + 1]), together[:, k : k + 1])
    others = np.random.default_rng(1).random((2, 5, *shape))
    lower[1:], upper[1:] = others[0, 1:], others[1, 1:]
    assert np.array_equal(pixel_features(lower, upper)[:, 0], together[:, 0])


def test_every_feature_tells_something():
    """None is constant, and no two are equal, on images with texture."""
    features = pixel_features(*as_doubles(*synthetic_families.images(6)[:2])).reshape(46, -1)
    assert (features.std(axis=1) > 1e-3).all()
    assert np.abs(np.corrcoef(features) - np.eye(46)).max() < 1 - 1e-6


def test_what_the_first_features_are():
    lower, upper = as_doubles(*synthetic_families.images(3)[:2])
    features = pixel_features(lower, upper)
    size, middle = upper - lower, (lower + upper) / 2
    expected = [np.log(size), middle, np.log(lower + 0.02), np.log(1.02 - upper)]
    means = np.log(size.mean(axis=(1, 2, 3))), middle.mean(axis=(1, 2, 3))
    expected += [np.broadcast_to(mean[:, None, None, None], size.shape) for mean in means]
    assert np.allclose(features[:6], expected, atol=1e-6)
    assert np.allclose(features[-4, 0, 0, :, 0], np.linspace(-1, 1, 8))
    assert np.allclose(features[-3, 0, 0, 0], np.linspace(-1, 1, 8))
    assert np.array_equal(features[-2:, 0, :, 0, 0], np.eye(3)[:2])


def test_neighbours_and_other_channels_are_relative_to_the_pixel():
    lower, upper = as_doubles(*synthetic_families.images(2)[:2])
    features, middle = pixel_features(lower, upper), (lower + upper) / 2
    above_left = np.pad(middle, [(0, 0), (0, 0), (1, 0), (1, 0)], mode="edge")[:, :, :-1, :-1]
    assert np.allclose(features[18], above_left - middle, atol=1e-6)
    next_channel = middle[:, [2, 0, 1]]
    assert np.allclose(features[38], next_channel - middle, atol=1e-6)
    with_border = np.pad(middle, [(0, 0), (0, 0), (1, 1), (1, 1)], mode="edge")
    means = np.lib.stride_tricks.sliding_window_view(with_border, (3, 3), axis=(2, 3)).mean(axis=(-1, -2))
    assert np.allclose(features[7], middle - means, atol=1e-6)


def test_shapes_are_checked():
    half = np.full((2, 3, 4, 4), 0.5)
    with pytest.raises(ShapeError, match="N, C, H, W"):
        pixel_features(half[0], half[0])
    with pytest.raises(ShapeError, match="upper has shape"):
        pixel_features(half, half[:1])


def test_arguments_are_not_written_to():
    lower, upper = as_doubles(*synthetic_families.images(2)[:2])
    copies = lower.copy(), upper.copy()
    pixel_features(lower, upper)
    assert np.array_equal(lower, copies[0])
    assert np.array_equal(upper, copies[1])
