import json
import math

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from conffusion.calibration import Family
from conffusion.calibration.families import get_family
from conffusion.calibration.fitting import fit_family
from conffusion.calibration.pixels import Pixels
from conffusion.calibration.risk_bounds import BOUNDS, Level
from conffusion.calibration.scaling import SCALINGS
from conffusion.core.choices import FAMILIES
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import CalibrationError, ConfigError, DataError, ShapeError
from conffusion.evaluation.validity import loss_curves
from tests import synthetic_families
from tests.calibration_in_order import calibrate

SHAPED = ("pixel_groups", "learned")
SMALL = (2, 3, 4)


def reshaped(family, lower, upper):
    """Bounds after the shape, if there is one."""
    pair = (lower, upper) if family.shape is None else family.shape.apply(lower, upper)
    return [np.asarray(array, dtype=np.float64) for array in pair]


def ends(family, lower, upper, scale):
    """Bounds of a family at a scale, clamped."""
    low, high = family.scaling.apply(*reshaped(family, lower, upper), scale)
    return low.clip(0, 1), high.clip(0, 1)


def critical_values(family, arrays, mask=None):
    """(values, image of each) of all evaluated pixels."""
    images = LabelledBounds(*arrays, mask)
    pixels = Pixels.of(images, family)
    values = np.concatenate([pixels.critical(block) for block in pixels.blocks()])
    return values, np.repeat(np.arange(images.n_images), images.count_evaluated())


@pytest.fixture(scope="module")
def fitted():
    """Families with a shape, fitted as in use, and the plain ones."""
    arrays = synthetic_families.images(12, seed=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("conffusion.calibration.learned._STEPS", 60)
        patch.setattr("conffusion.calibration.learned._BATCH", 1024)
        return {name: fit_family(name, LabelledBounds(*arrays), level=0.15) for name in FAMILIES}


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    scales=st.tuples(st.floats(0.0, 4.0), st.floats(0.0, 4.0)),
    values=st.lists(st.floats(0.0, 1.0), max_size=3),
)
def test_sets_grow_with_lambda(name, seed, scales, values):
    """Clamped sets at a larger lambda hold those at a smaller one, on any bounds, ordered, crossed or equal."""
    family, (small, large) = synthetic_families.family(name, SMALL, seed % 100), sorted(scales)
    choice = [0.0, 1.0, 0.5, *values]
    lower, upper = np.random.default_rng(seed).choice(choice, (2, 3, *SMALL))
    if name in ("interval", "multiplicative"):
        lower, upper = np.minimum(lower, upper), np.maximum(lower, upper)
    low, high = ends(family, lower, upper, small)
    wider_low, wider_high = ends(family, lower, upper, large)
    inside = low <= high  # an empty set lies in every other
    assert (wider_low <= low + 1e-15)[inside].all()
    assert (high - 1e-15 <= wider_high)[inside].all()


@pytest.mark.parametrize("name", FAMILIES)
@given(seed=st.integers(0, 2**32 - 1), shades=st.sampled_from([None, 2, 8]))
def test_critical_value_is_the_smallest_lambda_that_covers(name, seed, shades):
    family, generator = synthetic_families.family(name, SMALL, seed % 100), np.random.default_rng(seed)
    lower, upper, target = generator.random((3, 3, *SMALL))
    if shades:
        lower, upper, target = (np.rint(array * shades) / shades for array in (lower, upper, target))
    values, _ = critical_values(family, (lower, upper, target))
    values = values.reshape(target.shape)
    reachable = np.isfinite(values)
    at = np.where(reachable, values, 1e6)  # where none covers, a large one does not either
    low, high = ends(family, lower, upper, at)
    assert np.array_equal(((low <= target) & (target <= high))[reachable], np.ones(reachable.sum(), bool))
    from_0 = name not in ("additive", "pixel_groups")
    below = np.where(reachable, at - 1e-9 * np.maximum(1, np.abs(at)), at)
    below = np.maximum(below, 1e-12) if from_0 else below
    low, high = family.scaling.apply(*reshaped(family, lower, upper), below)  # before clamping
    assert not ((low <= target) & (target <= high))[(at > 1e-9) | (not from_0)].any()


@pytest.mark.parametrize("name", ["additive", "interval", "pixel_groups", "learned"])
def test_targets_at_the_ends_of_the_range_are_covered_by_some_lambda(name):
    lower, upper, target = synthetic_families.images(4)
    target[:2], target[2:] = 0.0, 1.0
    lower[0], upper[1] = 0.0, 1.0
    family = synthetic_families.family(name)
    values, _ = critical_values(family, (lower, upper, target))
    assert np.isfinite(values).all()
    low, high = ends(family, lower, upper, values.max())
    assert ((low <= target) & (target <= high)).all()
    outside = np.where(target == 0, -1e-6, 1 + 1e-6)
    assert np.isinf(critical_values(family, (lower, upper, outside))[0]).all()


def test_learned_covers_even_where_an_interval_has_no_width():
    lower, upper, target = synthetic_families.images(3)
    for bounds in [(lower, lower), (upper, lower)]:
        assert np.isfinite(critical_values(synthetic_families.family("learned"), (*bounds, target))[0]).all()


def test_a_set_that_clamping_throws_on_the_truth_counts_as_a_miss():
    """[m - a s w / 2, m + b s w / 2] with a = 1/2, b = 3 has its midpoint above 1: small sets about it lie above 1."""
    shape = synthetic_families.learned_scale(1, size=0.0)
    shape.outer[-1] = [-100.0, 100.0]
    lower, target = np.full((20, 1, 4, 4), 0.998), np.ones((20, 1, 4, 4))
    found = calibrate(lower, lower, target, alpha=0.3, delta=0.3, scaling=Family("learned", shape))
    assert found.risk == 0.0
    low, high = shape.apply(lower, lower)
    assert (low < 1.0).all()
    at = 0.5 * found.lambda_hat
    assert (family_low := SCALINGS["interval"].apply(low, high, at)[0]).min() > 1.0
    assert (family_low.clip(0, 1) <= target).all()
    assert (critical_values(Family("learned", shape), (lower, lower, target))[0] > at).all()


def brute_force(values, images, ucb, alpha, delta):
    """(lambda_hat, losses) by trying every finite critical value from the top down, or None."""
    bound, counts, best = BOUNDS[ucb], np.bincount(images), None
    for scale in np.unique(values[np.isfinite(values)])[::-1]:
        losses = np.bincount(images[values > scale], minlength=len(counts)) / counts
        if bound.value(losses, Level(alpha, delta, len(losses))) > alpha + 1e-12:
            break
        best = scale, losses
    return best


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("ucb", ["wsr", "star", "hoeffding_bentkus"])
@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_images=st.integers(2, 30),
    masked=st.booleans(),
    saturated=st.booleans(),
    levels=st.tuples(st.sampled_from([0.1, 0.3, 0.5]), st.sampled_from([0.1, 0.5])),
)
def test_calibrate_equals_brute_force_and_apply_what_it_counted(name, ucb, seed, n_images, masked, saturated, levels):
    generator = np.random.default_rng(seed)
    arrays = synthetic_families.images(n_images, SMALL, seed)
    if saturated:
        arrays[2] = np.where(generator.random(arrays[2].shape) < 0.1, np.rint(arrays[2]), arrays[2])
    mask = generator.random((n_images, 1, *SMALL[1:])) < 0.7 if masked else np.ones((n_images, 1, *SMALL[1:]))
    mask[:, :, 0, 0] = 1
    family, (alpha, delta) = synthetic_families.family(name, SMALL, seed % 50), levels
    expected = brute_force(*critical_values(family, arrays, mask), ucb, alpha, delta)
    given_levels = {"alpha": alpha, "delta": delta, "scaling": family, "ucb": ucb, "mask": mask}
    if expected is None:
        with pytest.raises(CalibrationError):
            calibrate(*arrays, **given_levels)
        return
    found = calibrate(*arrays, **given_levels)
    assert found.lambda_hat == expected[0]
    assert found.risk == pytest.approx(expected[1].mean(), abs=1e-12)
    assert found.risk_ucb <= alpha + 1e-12
    low, high = found.apply(*arrays[:2])
    missed = ((arrays[2] < low) | (arrays[2] > high)) & (mask == 1)
    losses = missed.reshape(n_images, -1).sum(axis=1) / (SMALL[0] * mask.reshape(n_images, -1).sum(axis=1))
    assert losses == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize("name", SHAPED)
def test_apply_misses_on_the_calibration_images_what_calibrate_counted(fitted, name):
    arrays = synthetic_families.images(60, seed=1)
    found = calibrate(*arrays, alpha=0.2, delta=0.1, scaling=fitted[name], ucb="star")
    assert (found.scaling, found.family.shape) == (name, fitted[name].shape)
    parts = [found.apply(*(array[rows] for array in arrays[:2])) for rows in (slice(0, 1), slice(1, 30), slice(30, 60))]
    low, high = (np.concatenate([part[end] for part in parts]) for end in (0, 1))
    assert ((arrays[2] < low) | (arrays[2] > high)).mean() == pytest.approx(found.risk, abs=1e-12)
    assert 0.0 <= low.min() <= high.max() <= 1.0


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("reshaped_at_once", [True, False])
def test_zarr_and_torch_give_what_numpy_gives(fitted, name, reshaped_at_once, tmp_path, monkeypatch):
    arrays = synthetic_families.images(40, seed=2)
    mask = (np.random.default_rng(0).random((40, 1, 8, 8)) < 0.6).astype(np.uint8)
    promise = {"alpha": 0.25, "delta": 0.2, "ucb": "star", "scaling": fitted[name]}
    expected = calibrate(*arrays, mask=mask, **promise)
    stored = []
    for index, array in enumerate([*arrays, mask]):
        stored.append(
            zarr.create_array(tmp_path / f"{index}", shape=array.shape, dtype=array.dtype, chunks=(7, 1, 8, 8))
        )
        stored[-1][:] = array
    if not reshaped_at_once:
        monkeypatch.setattr("conffusion.calibration.pixels._RESHAPED_PIXELS", 0)
        monkeypatch.setattr("conffusion.core.labelled_bounds._READ_PIXELS", 2000)
        monkeypatch.setattr("conffusion.calibration.pixels._CACHE_PIXELS", 600)
    assert calibrate(*arrays, mask=mask, **promise) == expected
    assert calibrate(*stored[:3], mask=stored[3], **promise) == expected
    tensors = [torch.from_numpy(array) for array in (*arrays, mask)]
    assert calibrate(*tensors[:3], mask=tensors[3], **promise) == expected
    for end in range(2):
        ours = expected.apply(*arrays[:2])[end]
        as_tensor = expected.apply(*(tensor.to(memory_format=torch.channels_last) for tensor in tensors[:2]))[end]
        assert torch.is_tensor(as_tensor)
        assert as_tensor.dtype == torch.float64
        assert np.array_equal(as_tensor.numpy(), ours)
        assert np.array_equal(expected.apply(*stored[:2])[end], ours)


@pytest.mark.parametrize("name", SHAPED)
def test_zarr_of_a_shaped_family_is_never_read_whole(fitted, name, tmp_path, monkeypatch):
    monkeypatch.setattr("conffusion.calibration.pixels._RESHAPED_PIXELS", 0)
    monkeypatch.setattr("conffusion.core.labelled_bounds._READ_PIXELS", 1000)
    monkeypatch.setattr("conffusion.calibration.pixels._SAMPLE_PIXELS", 1000)
    arrays, stored = synthetic_families.images(40, seed=2), []
    for index, array in enumerate(arrays):
        stored.append(zarr.create_array(tmp_path / f"{index}", shape=array.shape, dtype="f4", chunks=(4, 3, 8, 8)))
        stored[-1][:] = array
    largest, original = [], zarr.Array.__getitem__

    def watched(self, rows):
        largest.append(rows.stop - rows.start)
        return original(self, rows)

    monkeypatch.setattr(zarr.Array, "__getitem__", watched)
    monkeypatch.setattr(zarr.Array, "__array__", lambda *_, **__: pytest.fail("read whole"))
    promise = {"alpha": 0.25, "delta": 0.2, "ucb": "star", "scaling": fitted[name]}
    assert calibrate(*stored, **promise) == calibrate(*arrays, **promise)
    assert max(largest) == 4


@pytest.mark.parametrize("name", SHAPED)
def test_pixels_as_units_of_a_shaped_family(fitted, name):
    arrays = synthetic_families.images(10, seed=3)
    values, _ = critical_values(fitted[name], arrays)
    for ucb in ("wsr", "official", "hoeffding_bentkus"):
        found = calibrate(*arrays, alpha=0.2, delta=0.1, unit="pixel", ucb=ucb, scaling=fitted[name])
        assert (found.n, found.n_images) == (values.size, 10)
        assert found.risk == (values > found.lambda_hat).mean()
    with pytest.raises(ConfigError, match="ucb = 'star' with unit = 'pixel'"):
        calibrate(*arrays, alpha=0.2, delta=0.1, unit="pixel", ucb="star", scaling=fitted[name])


@pytest.mark.parametrize("name", SHAPED)
def test_loss_curves_of_a_shaped_family(fitted, name):
    arrays = synthetic_families.images(30, seed=4)
    curves = loss_curves(LabelledBounds(*arrays, None), fitted[name], n_points=128)
    for at in (0, 40, len(curves.lambdas) - 1):
        low, high = ends(fitted[name], *arrays[:2], curves.lambdas[at])
        missed = ((arrays[2] < low) | (arrays[2] > high)).mean(axis=(1, 2, 3))
        assert np.allclose(curves.losses[:, at], missed, rtol=1e-6)
        assert np.allclose(curves.sizes[:, at], (high - low).mean(axis=(1, 2, 3)), atol=2e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_json_gives_the_same_family(fitted, name):
    restored = Family.from_dict(json.loads(json.dumps(fitted[name].to_dict())))
    assert restored.name == name
    lower, upper, _ = synthetic_families.images(5, seed=3)
    for end, expected in zip(ends(restored, lower, upper, 1.1), ends(fitted[name], lower, upper, 1.1), strict=True):
        assert np.array_equal(end, expected)


def test_names_are_checked():
    assert get_family("interval").shape is None
    family = synthetic_families.family("learned")
    assert get_family(family) is family
    with pytest.raises(ConfigError, match="scaling = 'magic': must be one of multiplicative, .*, learned"):
        get_family("magic")
    for name in SHAPED:
        with pytest.raises(ConfigError, match=f"scaling = '{name}' has a shape: fit it"):
            calibrate(*synthetic_families.images(2), alpha=0.1, delta=0.1, scaling=name)
        with pytest.raises(ConfigError, match="has a shape"):
            Family.from_dict({"name": name, "shape": None})
    with pytest.raises(ConfigError, match="'interval' has no shape"):
        Family("interval", family.shape)
    for shape in (None, family.shape.to_dict()):
        with pytest.raises(ConfigError, match="scaling = 'magic'"):
            Family.from_dict({"name": "magic", "shape": shape})


def test_images_that_do_not_fit_the_shape_are_refused(fitted):
    grey, colour = synthetic_families.images(4, (1, 8, 8)), synthetic_families.images(4)
    found = calibrate(*colour, alpha=0.5, delta=0.5, scaling=fitted["learned"])
    with pytest.raises(DataError, match="calibrate this kind of image anew"):
        found.apply(*grey[:2])
    with pytest.raises(ShapeError, match="N, C, H, W"):
        found.apply(*(array.reshape(4, -1) for array in colour[:2]))
    with pytest.raises(DataError, match="whole images"):
        calibrate(colour[0] * np.float32(math.nan), *colour[1:], alpha=0.5, delta=0.5, scaling=fitted["learned"])


def test_promise_holds_for_a_family_fitted_on_other_images():
    """P(true risk > alpha) <= delta over 300 calibration sets of 150 images.

    They are drawn with replacement from 2000 images, over which the true risk is known. Images share a factor in their
    errors, so that their losses differ. The family is fitted once; as it moves each image by its own bounds alone, the
    images are reshaped before they are drawn.
    """
    alpha, delta, n_draws, n_images = 0.1, 0.1, 300, 150
    pool = synthetic_families.images(2000, (1, 8, 8), seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("conffusion.calibration.learned._STEPS", 100)
        patch.setattr("conffusion.calibration.learned._BATCH", 2048)
        family = fit_family("learned", LabelledBounds(*synthetic_families.images(40, (1, 8, 8), seed=1)), level=0.09)
    critical, _ = critical_values(family, pool)
    moved = [*family.shape.apply(*pool[:2]), pool[2]]
    drawn = np.random.default_rng(4).integers(2000, size=(n_draws, n_images))
    promise = {"alpha": alpha, "delta": delta, "ucb": "star"}
    scales = np.array(
        [calibrate(*(array[rows] for array in moved), scaling="interval", **promise).lambda_hat for rows in drawn]
    )
    direct = calibrate(*(array[drawn[0]] for array in pool), scaling=family, **promise)
    assert direct.lambda_hat == scales[0]
    risks = np.array([(critical > scale).mean() for scale in scales])
    assert (risks > alpha).mean() <= delta + 3 * math.sqrt(delta * (1 - delta) / n_draws)
    assert 0.8 * alpha < risks.mean() < alpha
