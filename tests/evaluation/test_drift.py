import itertools

import numpy as np
import pytest
import torch
import zarr
from scipy import stats

import conffusion.evaluation.drift as drift
from conffusion.errors import ConfigError, DataError, ShapeError
from conffusion.evaluation.drift import check_drift
from conffusion.evaluation.features import FEATURE_NAMES, GIVEN_FEATURE_NAMES, given_features, interval_features

N_FEATURES = len(FEATURE_NAMES)
N_REPEATS = 400


def make_bounds(n_images, seed, scale=1.0, shape=(2, 8, 8)):
    """(lower, upper) of images that differ in content and in how uncertain they are; sizes times `scale`."""
    generator = np.random.default_rng(seed)
    half = scale * 0.05 * np.exp(0.3 * generator.normal(size=(n_images, 1, 1, 1)))
    half = half * generator.uniform(0.5, 1.5, (n_images, *shape))
    centre = generator.uniform(0.3, 0.7, (n_images, 1, 1, 1)) + 0.1 * generator.normal(size=(n_images, *shape))
    return [bound.clip(0, 1).astype(np.float32) for bound in (centre - half, centre + half)]


def make_features(n_images, generator):
    """Features that depend on each other, one of them heavy-tailed and one full of ties."""
    values = generator.normal(size=(n_images, N_FEATURES)) @ (np.eye(N_FEATURES) + 0.5)
    values[:, 3] = np.exp(values[:, 3])
    values[:, 7] = np.maximum(0.0, np.round(values[:, 7]))
    return values


def make_groups(n_groups, generator, per_group=5):
    """Features of groups of near-identical images, and their labels."""
    labels = np.repeat(np.arange(n_groups), per_group)
    return make_features(n_groups, generator)[labels] + 0.05 * make_features(len(labels), generator), labels


def assert_super_uniform(p_values, level):
    """p_values: (n_repeats, ...); shares within a repeat may depend on each other."""
    shares = (p_values <= level).reshape(len(p_values), -1).mean(axis=1)
    assert shares.mean() <= level + 3 * np.sqrt(level * (1 - level) / len(shares))


def test_features_equal_brute_force():
    lower, upper = make_bounds(4, 0)
    lower[0, 0, 0, :4] = 0.001
    upper[1, 1, 2] = 1.0
    upper[2, 0, 0, 0] = lower[2, 0, 0, 0]
    mask = np.random.default_rng(1).random(lower.shape) < 0.6
    lower[~mask] = np.nan
    found = interval_features(lower, upper, mask)
    assert found.shape == (4, N_FEATURES) and found.dtype == np.float64
    for image, chosen in enumerate(mask):
        low, high = (bound[image].astype(np.float64) for bound in (lower, upper))
        middle = (low + high) / 2
        size = (high - low)[chosen]
        horizontal = np.abs(middle[:, :, 1:] - middle[:, :, :-1])
        vertical = np.abs(middle[:, 1:] - middle[:, :-1])
        expected = {
            "size_mean": size.mean(),
            "size_std": size.std(),
            "size_q10": np.quantile(size, 0.1),
            "size_q50": np.median(size),
            "size_q90": np.quantile(size, 0.9),
            "log_size_mean": np.log(np.maximum(size, 1e-4)).mean(),
            "midpoint_mean": middle[chosen].mean(),
            "midpoint_std": middle[chosen].std(),
            "midpoint_texture": np.nanmean(horizontal) + np.nanmean(vertical),
            "saturated_share": ((low < 0.5 / 255) | (high > 1 - 0.5 / 255))[chosen].mean(),
        }
        assert dict(zip(FEATURE_NAMES, found[image], strict=True)) == pytest.approx(expected)


def test_mask_of_one_channel_serves_all():
    bounds, mask = make_bounds(3, 0), np.random.default_rng(0).integers(0, 2, (3, 1, 8, 8))
    expected = interval_features(*bounds, np.repeat(mask, 2, axis=1))
    assert np.array_equal(interval_features(*bounds, mask), expected)


def test_lonely_pixels_have_no_texture():
    bounds, mask = make_bounds(1, 0), np.zeros((1, 2, 8, 8))
    mask[..., ::2, ::2] = 1
    assert interval_features(*bounds, mask)[0, FEATURE_NAMES.index("midpoint_texture")] == 0.0


def test_zarr_and_torch_give_what_numpy_gives(tmp_path, monkeypatch):
    arrays = [*make_bounds(9, 0), (np.random.default_rng(0).random((9, 2, 8, 8)) < 0.5).astype(np.float32)]
    expected = interval_features(*arrays)
    stored = []
    for index, array in enumerate(arrays):
        stored.append(zarr.create_array(tmp_path / f"{index}", shape=array.shape, dtype="f4", chunks=(2, 2, 4, 8)))
        stored[-1][:] = array
    monkeypatch.setattr(zarr.Array, "__array__", lambda *_, **__: pytest.fail("read whole"))
    monkeypatch.setattr("conffusion.evaluation.features._READ_PIXELS", 500)
    assert np.array_equal(interval_features(*stored), expected)
    assert np.array_equal(interval_features(*(torch.from_numpy(array) for array in arrays)), expected)


def pairwise(points, pooled):
    """(n, n) Mahalanobis distances, from the covariance of the pooled features with its diagonal raised by 30 %."""
    covariance = np.cov(pooled.T, bias=True)
    matrix = np.linalg.inv(covariance + 0.3 * np.diag(np.diag(covariance)))
    differences = points[:, None] - points
    return np.sqrt(np.einsum("abi,ij,abj->ab", differences, matrix, differences))


def discrepancy(reference, new):
    """Biased squared maximum mean discrepancy by its definition, in double precision."""
    pooled, n = np.concatenate([reference, new]), len(reference)
    distances = pairwise(pooled, pooled)
    kernel = np.exp(-((distances / np.median(distances[np.triu_indices(len(pooled), 1)])) ** 2) / 2)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


@pytest.mark.parametrize("n_new", [1, 2, 5])
def test_statistic_and_p_value_equal_brute_force(n_new):
    generator = np.random.default_rng(n_new)
    reference, new = make_features(7, generator), make_features(n_new, generator) + 0.7
    found = check_drift(reference, new, n_permutations=20_000)
    assert found.statistic == pytest.approx(discrepancy(reference, new), rel=1e-4)
    pooled, everyone = np.concatenate([reference, new]), set(range(7 + n_new))
    dealt = [
        discrepancy(pooled[sorted(everyone - set(chosen))], pooled[list(chosen)])
        for chosen in itertools.combinations(range(7 + n_new), n_new)
    ]
    exact = np.mean(np.array(dealt) >= discrepancy(reference, new) * (1 - 1e-9))
    assert found.p_value == pytest.approx(exact, abs=0.015)
    assert found.smallest_p_value == max(1 / len(dealt), 1 / 20_001)


def test_image_p_values_equal_brute_force():
    generator = np.random.default_rng(0)
    reference, new = make_features(12, generator), make_features(4, generator)
    new[3] = reference[3]
    found = check_drift(reference, new, n_permutations=1).image_p_values
    pooled = np.concatenate([reference, new])
    for image, p_value in zip(new, found, strict=True):
        distances = np.sort(pairwise(np.concatenate([reference, image[None]]), pooled), axis=1)
        scores = distances[:, 1:6].sum(axis=1)
        assert p_value == np.mean(scores >= scores[-1] * (1 - 1e-12))


def test_group_means_are_what_is_dealt():
    generator = np.random.default_rng(0)
    (reference, old_labels), (new, new_labels) = make_groups(6, generator), make_groups(3, generator)
    order = generator.permutation(len(reference))
    found = check_drift(reference[order], new, reference_groups=old_labels[order], new_groups=new_labels)
    means = [values.reshape(-1, 5, N_FEATURES).mean(axis=1) for values in (reference, new)]
    assert found.statistic == pytest.approx(discrepancy(*means), rel=1e-4)
    assert (found.unit, found.n_reference, found.n_new) == ("group", 30, 15)
    assert (found.n_reference_used, found.n_new_used) == (6, 3)
    assert found.smallest_p_value == 1 / 84
    assert set(np.round(found.image_p_values * 7, 9)) <= set(range(1, 8))


@pytest.mark.parametrize(("n_reference", "n_new"), [(30, 12), (19, 1)])
def test_false_alarms_are_rare_on_exchangeable_images(n_reference, n_new):
    p_values, image_p_values = [], []
    for repeat in range(N_REPEATS):
        generator = np.random.default_rng([n_new, repeat])
        sets = make_features(n_reference, generator), make_features(n_new, generator)
        found = check_drift(*sets, n_permutations=99, seed=repeat)
        p_values.append(found.p_value)
        image_p_values.append(found.image_p_values)
    for level in (0.05, 0.1, 0.3):
        assert_super_uniform(np.array(p_values), level)
        assert_super_uniform(np.array(image_p_values), level)


def test_false_alarms_are_rare_on_exchangeable_groups_and_frequent_where_groups_are_ignored():
    grouped, ungrouped = [], []
    for repeat in range(N_REPEATS):
        generator = np.random.default_rng([1, repeat])
        (reference, old_labels), (new, new_labels) = make_groups(19, generator), make_groups(4, generator)
        labels = {"reference_groups": old_labels, "new_groups": new_labels}
        grouped.append(check_drift(reference, new, n_permutations=99, seed=repeat, **labels))
        if repeat < 60:
            ungrouped.append(check_drift(reference, new, n_permutations=99, seed=repeat))
    for level in (0.05, 0.1, 0.3):
        assert_super_uniform(np.array([found.p_value for found in grouped]), level)
        assert_super_uniform(np.array([found.image_p_values for found in grouped]), level)
    assert np.mean([found.p_value <= 0.1 for found in ungrouped]) > 0.5
    assert np.mean([found.image_p_values <= 0.1 for found in ungrouped]) > 0.3


def test_false_alarms_are_rare_on_images_all_alike():
    same = np.full((20, N_FEATURES), 0.1)
    found = check_drift(same, same[:5], n_permutations=99)
    assert (found.p_value, found.statistic) == (1.0, 0.0)
    assert (found.image_p_values == 1.0).all()
    assert all(abs(shift) < 1e-12 for _, shift in found.most_shifted)


def test_image_p_values_of_a_good_image_hold_beside_bad_ones():
    p_values = []
    for repeat in range(N_REPEATS):
        generator = np.random.default_rng([2, repeat])
        bad = 5.0 + 10.0 * make_features(10, generator)
        new = np.concatenate([make_features(1, generator), bad])
        p_values.append(check_drift(make_features(29, generator), new, n_permutations=1).image_p_values[0])
    for level in (0.1, 0.3):
        assert_super_uniform(np.array(p_values), level)


def test_wider_intervals_are_found():
    reference = interval_features(*make_bounds(100, 0))
    for seed in range(1, 6):
        found = check_drift(reference, interval_features(*make_bounds(30, seed, scale=1.5)))
        assert found.p_value <= 0.01
        assert all("size" in name and shift > 0.5 for name, shift in found.most_shifted)


def test_one_odd_image_is_found():
    reference = interval_features(*make_bounds(150, 0))
    lower, upper = make_bounds(5, 1)
    lower[2], upper[2] = 0.0, 1.0
    found = check_drift(reference, interval_features(lower, upper))
    assert found.image_p_values[2] == 1 / 151
    assert (found.image_p_values[[0, 1, 3, 4]] > 1 / 151).all()
    alone = check_drift(reference, interval_features(lower[2:3], upper[2:3]))
    assert alone.p_value <= 0.02 and alone.n_new == 1


def test_permutation_p_values_are_uniform_not_merely_small():
    generator = np.random.default_rng(0)
    p_values = [
        check_drift(make_features(20, generator), make_features(20, generator), n_permutations=99).p_value
        for _ in range(300)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_the_seed_decides_the_result():
    generator = np.random.default_rng(0)
    (reference, old_labels), (new, new_labels) = make_groups(12, generator), make_groups(4, generator)
    labels = {"reference_groups": old_labels, "new_groups": new_labels}
    first, again, other = (check_drift(reference, new, seed=seed, **labels) for seed in (0, 0, 1))
    assert first.p_value == again.p_value and np.array_equal(first.image_p_values, again.image_p_values)
    assert first.p_value != other.p_value
    assert first.statistic == other.statistic


def test_inputs_stay_as_they_are_and_torch_serves():
    generator = np.random.default_rng(0)
    sets = make_features(12, generator), make_features(4, generator)
    copies = [values.copy() for values in sets]
    found = check_drift(*sets, n_permutations=50)
    assert all(np.array_equal(values, copy) for values, copy in zip(sets, copies, strict=True))
    assert check_drift(*map(torch.from_numpy, sets), n_permutations=50).p_value == found.p_value


def test_large_sets_are_thinned(monkeypatch):
    monkeypatch.setattr(drift, "MAX_UNITS", 40)
    generator = np.random.default_rng(0)
    found = check_drift(make_features(100, generator), make_features(60, generator) + 2, n_permutations=200)
    assert (found.n_reference, found.n_reference_used, found.n_new, found.n_new_used) == (100, 40, 60, 40)
    assert found.image_p_values.shape == (60,) and found.image_p_values.min() >= 1 / 41
    assert found.p_value == 1 / 201


def test_warning_says_what_to_do():
    generator = np.random.default_rng(0)
    reference, new = make_features(60, generator), make_features(20, generator)
    assert check_drift(reference, new).warning() is None
    found = check_drift(reference, new + 3 * np.eye(N_FEATURES)[FEATURE_NAMES.index("size_std")])
    assert found.most_shifted[0][0] == "size_std" and len(found.most_shifted) == 3
    message = found.warning()
    assert "do not rely on the guaranteed risk" in message and "p = 0.0005 <= 0.01" in message
    assert "20 new images" in message and "60 calibration images" in message and "size_std +" in message
    assert found.warning(level=1e-4) is None
    with pytest.raises(ConfigError, match="level = 0"):
        found.warning(level=0)


def test_bad_bounds_are_refused():
    lower, upper = make_bounds(3, 0)
    with pytest.raises(ShapeError, match=r"upper has shape \(2, 2, 8, 8\) but lower has \(3, 2, 8, 8\)"):
        interval_features(lower, upper[1:])
    with pytest.raises(ShapeError, match=r"lower has shape \(0, 2, 8, 8\)"):
        interval_features(lower[:0], upper[:0])
    with pytest.raises(ShapeError, match=r"lower has shape \(2, 8, 8\)"):
        interval_features(lower[0], upper[0])
    with pytest.raises(ShapeError, match=r"mask has shape \(3, 8, 8\) but the bounds have \(3, 2, 8, 8\)"):
        interval_features(lower, upper, np.ones((3, 8, 8)))
    mask = np.ones_like(lower)
    mask[1] = 0
    with pytest.raises(DataError, match="no pixel in image 1: leave the image out"):
        interval_features(lower, upper, mask)
    for value in (np.nan, np.inf):
        upper[2, 0, 0, 0] = value
        with pytest.raises(DataError, match="NaN or infinite in image 2"):
            interval_features(lower, upper)


def test_bad_features_are_refused():
    generator = np.random.default_rng(0)
    reference, new = make_features(6, generator), make_features(3, generator)
    with pytest.raises(ShapeError, match=r"new has shape \(3, 9\)"):
        check_drift(reference, new[:, 1:])
    with pytest.raises(ShapeError, match=r"new has shape \(0, 10\)"):
        check_drift(reference, new[:0])
    with pytest.raises(ShapeError, match=r"reference has shape \(10,\)"):
        check_drift(reference[0], new)
    with pytest.raises(DataError, match="reference has 1 image: at least 2 are needed"):
        check_drift(reference[:1], new)
    with pytest.raises(DataError, match="reference has 1 group: at least 2 are needed"):
        check_drift(reference, new, reference_groups=np.zeros(6), new_groups=np.zeros(3))
    with pytest.raises(ConfigError, match="new_groups is missing"):
        check_drift(reference, new, reference_groups=np.arange(6))
    with pytest.raises(ShapeError, match="one label for each of 3 images"):
        check_drift(reference, new, reference_groups=np.arange(6), new_groups=np.arange(2))
    with pytest.raises(ConfigError, match="n_permutations = 0"):
        check_drift(reference, new, n_permutations=0)
    new[1, 4] = np.nan
    with pytest.raises(DataError, match="new has features that are NaN or infinite in image 1"):
        check_drift(reference, new)


def test_given_features_follow_their_definitions() -> None:
    image = np.zeros((1, 1, 3, 4))
    image[0, 0, 1] = [0.0, 0.8, 0.4, 0.0]
    mean, deviation, texture, detail = given_features(image)[0]
    assert mean == pytest.approx(0.1) and deviation == pytest.approx(image.std())
    assert texture == pytest.approx((0.8 + 0.4 + 0.4) / 9 + 2 * (0.8 + 0.4) / 8)
    assert detail == pytest.approx((abs(0.8 - 0.4 / 4) + abs(0.4 - 0.8 / 4)) / 2)


def test_given_features_look_at_given_pixels_only() -> None:
    generator = np.random.default_rng(0)
    images, mask = generator.random((2, 3, 8, 8)), np.ones((2, 1, 8, 8))
    mask[:, :, 2:5, 2:5] = 0
    other = np.where(mask == 1, images, 0.5)
    np.testing.assert_array_equal(given_features(images, mask), given_features(other, mask))
    with pytest.raises(DataError, match="no pixel was given of image 0"):
        given_features(images, 0 * mask)


def test_blur_of_what_was_given_is_found_where_intervals_do_not_change() -> None:
    generator = np.random.default_rng(0)
    intervals = generator.random((300, N_FEATURES))
    images = generator.random((300, 3, 8, 8))
    blurred = (images + np.roll(images, 1, axis=3)) / 2
    known, new = (np.hstack([intervals, given_features(one)]) for one in (images, blurred))
    found = check_drift(known[:200], new[200:])
    assert found.p_value < 0.01 and found.most_shifted[0][0] in GIVEN_FEATURE_NAMES
    assert check_drift(known[:200], known[200:]).p_value > 0.01


def test_both_sets_need_the_same_features() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(ShapeError, match="new has 14 features of an image, but reference has 10"):
        check_drift(generator.random((9, 10)), generator.random((9, 14)))
