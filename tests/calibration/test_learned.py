import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from conffusion.calibration import learned
from conffusion.calibration.features import SMALLEST_SIZE
from conffusion.calibration.learned import LearnedScale, fit_learned_scale
from conffusion.calibration.scaling import SCALINGS
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import DataError, ShapeError
from tests import synthetic_families

LEVEL = 0.1
ROOT = Path(__file__).parents[2]


def evenly(n_images):
    return np.full(n_images, 1 / n_images)


@pytest.fixture(scope="module")
def shape():
    """Fitted in full."""
    return fit_learned_scale(LabelledBounds(*synthetic_families.images(60)), evenly(60), level=LEVEL)


@pytest.fixture
def quick(monkeypatch):
    """Fits of a few short steps."""
    monkeypatch.setattr(learned, "_STEPS", 12)
    monkeypatch.setattr(learned, "_BATCH", 256)


def size_at_risk(lower, upper, target, level):
    """Mean clamped size of [m - lambda w / 2, m + lambda w / 2] at the lambda that misses a share of `level`."""
    lower, upper, target = (np.asarray(array, dtype=np.float64) for array in (lower, upper, target))
    critical = SCALINGS["interval"].critical(lower, upper, target)
    low, high = SCALINGS["interval"].apply(lower, upper, np.quantile(critical, 1 - level, method="higher"))
    return float((high.clip(0, 1) - low.clip(0, 1)).mean())


def test_gradients_are_those_of_the_smoothed_cost():
    generator, n_pixels, price = np.random.default_rng(0), 40, 0.7
    features, middle = generator.normal(size=(n_pixels, 5)), generator.uniform(0.05, 0.95, n_pixels)
    half = generator.uniform(0.02, 0.3, n_pixels)
    target = middle + half * generator.normal(size=n_pixels)
    layers = [generator.normal(size=(6, 4)), generator.normal(size=(5, 2))]

    def cost():
        hidden = features @ layers[0][:-1] + layers[0][-1]
        outer = hidden * special.expit(hidden) @ layers[1][:-1] + layers[1][-1]
        limit = np.where(outer < 0, np.log(0.5), np.log(3.0))
        reach = np.exp(limit * np.tanh(outer / limit)) * half[:, None]
        sizes = np.minimum(reach, np.stack([middle, 1 - middle], axis=1)).sum(axis=1)
        far = np.where(target < middle, 0, 1)
        at = np.abs(target - middle) / reach[np.arange(n_pixels), far]
        return sizes.mean() + price * special.expit(np.log(at) / 0.1).mean(), (at > 1).mean()

    batch = learned._Batch(features, middle, half, target)
    gradients, risk = batch.gradients(*layers, price)
    assert risk == cost()[1]
    for layer, gradient in zip(layers, gradients, strict=True):
        for at in np.ndindex(layer.shape):
            before = layer[at]
            layer[at] = before + 1e-6
            above = cost()[0]
            layer[at] = before - 1e-6
            below = cost()[0]
            layer[at] = before
            assert gradient[at] == pytest.approx((above - below) / 2e-6, rel=1e-4, abs=1e-7)


def test_sets_on_new_images_are_narrower_at_the_same_risk(shape):
    """Errors are four times as large where the level is high, which the bounds do not show by their size."""
    lower, upper, target = synthetic_families.images(60, seed=1)
    before = size_at_risk(lower, upper, target, LEVEL)
    after = size_at_risk(*shape.apply(lower, upper), target, LEVEL)
    assert after < 0.9 * before
    low, high = shape.apply(lower, upper)
    reach = (high - low) / (upper - lower)
    middle = (lower + upper) / 2
    assert reach[middle > 0.6].mean() > 1.5 * reach[middle < 0.4].mean()


def test_fit_leaves_about_the_risk_it_was_asked_for(shape):
    for seed, rest in [(0, 0.15), (1, 1.0)]:  # on the images of the fit, and on others
        lower, upper, target = synthetic_families.images(60, seed=seed)
        low, high = shape.apply(lower, upper)
        assert ((target < low) | (target > high)).mean() == pytest.approx(LEVEL, rel=rest)


@pytest.mark.parametrize("level", [1e-6, 0.01, 0.5, 0.99])
def test_fit_at_any_level_is_finite(quick, level):
    bounds = synthetic_families.images(4)
    fitted = fit_learned_scale(LabelledBounds(*bounds), evenly(4), level=level)
    assert all(np.isfinite(end).all() for end in fitted.apply(*bounds[:2]))


def test_fit_is_a_function_of_the_seed(quick):
    bounds = synthetic_families.images(6)
    first, again, other = (
        fit_learned_scale(LabelledBounds(*bounds), evenly(6), level=LEVEL, seed=k) for k in (3, 3, 4)
    )
    assert first.to_dict() == again.to_dict()
    assert first.to_dict() != other.to_dict()


def test_json_keeps_every_bit(shape):
    lower, upper, _ = synthetic_families.images(5, seed=2)
    restored = LearnedScale.from_dict(json.loads(json.dumps(shape.to_dict())))
    for end, expected in zip(restored.apply(lower, upper), shape.apply(lower, upper), strict=True):
        assert np.array_equal(end, expected)


@pytest.mark.parametrize("size", [0.0, 1.0, 100.0])
def test_ends_move_to_between_half_and_three_times_their_reach(size):
    lower, upper, _ = synthetic_families.images(4)
    lower[0], upper[0] = upper[0].copy(), lower[0].copy()  # crossed
    upper[1] = lower[1]
    middle, width = (lower.astype(np.float64) + upper) / 2, upper.astype(np.float64) - lower
    factors = []
    for seed in range(5):
        shape = synthetic_families.learned_scale(seed=seed, size=size)
        low, high = shape.apply(lower, upper)
        assert low.dtype == high.dtype == np.float64
        assert (low < high).all()
        factors.append(np.stack([middle - low, high - middle]) / (shape.scale * np.maximum(width, SMALLEST_SIZE) / 2))
    assert np.min(factors) >= 0.5 * (1 - 1e-6)
    assert np.max(factors) <= 3.0 * (1 + 1e-6)
    if size == 0.0:
        assert np.allclose(factors, 1.0)
    if size == 100.0:
        assert np.min(factors) < 0.51
        assert np.max(factors) > 2.9


def test_each_image_is_reshaped_by_its_own_bounds_bit_for_bit():
    shape = synthetic_families.learned_scale()
    lower, upper, _ = synthetic_families.images(7, (3, 13, 9))
    together = shape.apply(lower, upper)
    for k in (0, 3, 6):
        for end, expected in zip(shape.apply(lower[k : k + 1], upper[k : k + 1]), together, strict=True):
            assert np.array_equal(end[0], expected[k])
    channels_last = [
        np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for array in (lower, upper)
    ]
    for bounds in (channels_last, [np.asfortranarray(lower), np.asfortranarray(upper)], [lower.astype("f8"), upper]):
        for end, expected in zip(shape.apply(*bounds), together, strict=True):
            assert np.array_equal(end, expected)
    assert shape.apply(lower[:0], upper[:0])[0].shape == (0, 3, 13, 9)


def test_number_of_threads_changes_no_bit():
    """Processes of their own, since libraries of linear algebra read the number of threads once."""
    code = (
        "import numpy as np; from tests import synthetic_families as s\n"
        "from conffusion.calibration import LabelledBounds, learned\n"
        "for shape in [(3, 31, 31), (1, 64, 64), (3, 37, 53)]:\n"
        "    low, high = s.learned_scale(shape[0]).apply(*s.images(2, shape)[:2])\n"
        "    print(low.tobytes().hex(), high.tobytes().hex())\n"
        "learned._STEPS = 12\n"
        "print(learned.fit_learned_scale(LabelledBounds(*s.images(6)), np.full(6, 1 / 6), level=0.1).to_dict())"
    )
    outputs = set()
    for threads in ("1", "2", "3"):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "PYTHONPATH": str(ROOT),
        }
        outputs.add(
            subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
        )
    assert len(outputs) == 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 1, 5), (2, 4, 1)])
def test_tiny_images(quick, shape):
    bounds = synthetic_families.images(20, shape)
    low, high = fit_learned_scale(LabelledBounds(*bounds), evenly(20), level=0.2).apply(*bounds[:2])
    assert low.shape == (20, *shape)
    assert (low < high).all()


def test_other_channels_are_refused(shape):
    grey = synthetic_families.images(2, (1, 8, 8))[:2]
    with pytest.raises(DataError, match="1 channels, 40 features, but the family was fitted with 46"):
        shape.apply(*grey)


def test_shapes_and_values_are_checked(shape, quick):
    lower, upper, target = synthetic_families.images(4)
    with pytest.raises(ShapeError, match="N, C, H, W"):
        shape.apply(lower[:, 0], upper[:, 0])
    with pytest.raises(ShapeError, match="upper has shape"):
        shape.apply(lower, upper[:1])
    for spoilt in (np.nan, np.inf):
        lower[1, 0, 0, 0] = spoilt
        with pytest.raises(DataError, match="whole images"):
            shape.apply(lower, upper)
        with pytest.raises(DataError, match="whole images"):
            fit_learned_scale(LabelledBounds(lower, upper, target), evenly(4), level=LEVEL)


def test_mask_of_one_channel_is_that_of_all(quick):
    lower, upper, target = synthetic_families.images(6)
    mask = np.random.default_rng(0).random((6, 1, 8, 8)) < 0.5
    spoilt = np.where(mask, target, np.nan).astype(np.float32)
    weights = evenly(6)
    narrow = fit_learned_scale(LabelledBounds(lower, upper, spoilt, mask), weights, level=LEVEL)
    wide = fit_learned_scale(
        LabelledBounds(lower, upper, target, np.repeat(mask, 3, axis=1).astype("u1")), weights, level=LEVEL
    )
    assert narrow.to_dict() == wide.to_dict()
    everything = fit_learned_scale(LabelledBounds(lower, upper, target, np.ones_like(target)), weights, level=LEVEL)
    assert (
        everything.to_dict() == fit_learned_scale(LabelledBounds(lower, upper, target), weights, level=LEVEL).to_dict()
    )
    assert everything.to_dict() != wide.to_dict()
    with pytest.raises(DataError, match="target is NaN or infinite at evaluated pixels of image 0"):
        fit_learned_scale(LabelledBounds(lower, upper, spoilt), weights, level=LEVEL)


def test_image_without_an_evaluated_pixel_is_named(quick):
    mask = np.ones((3, 1, 8, 8))
    mask[2] = 0
    with pytest.raises(DataError, match="no pixel in image 2"):
        fit_learned_scale(LabelledBounds(*synthetic_families.images(3), mask), evenly(3), level=LEVEL)


def test_images_weigh_what_they_are_given(quick):
    """The common scale is the one at which the weighted risk is the level: here that of the only image that counts."""
    lower, upper, target = synthetic_families.images(3)
    target[1:] = lower[1:]
    weights = np.array([1.0, 0.0, 0.0])
    alone = fit_learned_scale(LabelledBounds(lower[:1], upper[:1], target[:1]), evenly(1), level=LEVEL)
    assert fit_learned_scale(LabelledBounds(lower, upper, target), weights, level=LEVEL).scale == pytest.approx(
        alone.scale
    )


def test_of_many_pixels_some_are_drawn(quick, monkeypatch):
    bounds = synthetic_families.images(8, (1, 16, 16))
    monkeypatch.setattr(learned, "_MAX_PIXELS", 80)
    sample = learned._draw(LabelledBounds(*bounds), evenly(8), np.random.default_rng(0))
    assert np.array_equal(sample.counts, np.full(8, 10))
    assert np.array_equal(sample.starts, np.arange(8) * 10)
    values = set(np.float32(bounds[2]).reshape(8, -1)[3].tolist())
    assert set(sample.target[30:40].tolist()) <= values
    assert len(set(sample.target[30:40].tolist())) == 10


def test_constant_features_stay_at_zero(quick):
    """Bounds of one size, and of one level: nothing but the position differs, and that is all that is learned from."""
    lower, upper = np.full((6, 1, 8, 8), np.float32(0.3)), np.full((6, 1, 8, 8), np.float32(0.7))
    target = np.random.default_rng(0).random(lower.shape, dtype=np.float32)
    fitted = fit_learned_scale(LabelledBounds(lower, upper, target), evenly(6), level=0.3)
    features = learned.pixel_features(lower[:1].astype("f8"), upper[:1].astype("f8")).reshape(40, -1).T
    standardised = learned._standardise(features, fitted.mean, fitted.deviation)
    assert np.array_equal(standardised[:, :2], np.zeros((64, 2)))


def test_arguments_are_not_written_to(quick):
    arrays = [*synthetic_families.images(4), np.ones((4, 1, 8, 8)), evenly(4)]
    copies = [array.copy() for array in arrays]
    fit_learned_scale(LabelledBounds(*arrays[:-1]), arrays[-1], level=LEVEL).apply(*arrays[:2])
    assert all(np.array_equal(array, copy) for array, copy in zip(arrays, copies, strict=True))
