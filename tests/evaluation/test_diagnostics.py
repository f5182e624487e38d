import math

import numpy as np
import pytest
import torch
import zarr
from scipy import stats

from conffusion.calibration import CalibrationOptions, critical_lambda, hoeffding_bentkus_ucb, wsr_ucb
from conffusion.calibration.scaling import get_scaling
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import ConfigError, DataError, ShapeError
from conffusion.evaluation.diagnostics import reliability_by_size, risk_by_group, risk_by_position, risk_curve
from conffusion.metrics import evaluate
from tests.calibration_in_order import calibrate


def curve(images, n_points=41, **options):
    return risk_curve(images, CalibrationOptions(**options), n_points=n_points)


SHAPE = (9, 3, 8, 6)
GROUPS = np.array(["b", "a", "c", "b", "b", "d", "c", "c", "b"])
GUARANTEE = {"scaling": "multiplicative", "alpha": 0.1, "delta": 0.1}
FUNCTIONS = [
    lambda *arrays: reliability_by_size(LabelledBounds(*arrays)),
    lambda *arrays: risk_by_position(LabelledBounds(*arrays)),
    lambda *arrays: risk_by_group(LabelledBounds(*arrays, groups=GROUPS)),
    lambda *arrays: curve(LabelledBounds(*arrays), ucb="hoeffding", **GUARANTEE),
]


def make_intervals(shape=SHAPE, seed=0):
    """(lower, upper, target) float32, about a fifth of the pixels missed, and a mask of half of the pixels."""
    generator = np.random.default_rng(seed)
    target = generator.uniform(0.2, 0.8, shape)
    half = generator.uniform(0.02, 0.2, shape)
    centre = target + half * generator.normal(0, 0.8, shape)
    mask = (generator.random(shape) < 0.5).astype(np.float32)
    return *(array.astype(np.float32) for array in (centre - half, centre + half, target)), mask


@pytest.fixture(scope="module")
def intervals():
    return make_intervals()


def missed(lower, upper, target):
    return (target < lower) | (target > upper)


def same(left, right):
    """Whether two results hold the same numbers, up to the order of sums."""
    left, right = ([list(vars(part).values()) for part in np.atleast_1d(np.array(x, object))] for x in (left, right))
    pairs = zip(sum(left, []), sum(right, []), strict=True)
    return all(a == b if isinstance(a, str) else np.allclose(a, b, rtol=1e-6, equal_nan=True) for a, b in pairs)


@pytest.mark.parametrize("n_bins", [2, 4, 7])
def test_size_bins_equal_brute_force(intervals, n_bins):
    lower, upper, target, mask = intervals
    chosen = mask == 1
    sizes, misses = (upper - lower)[chosen].astype(np.float64), missed(lower, upper, target)[chosen]
    edges = np.quantile(sizes, np.arange(1, n_bins) / n_bins)
    bins = np.searchsorted(edges, sizes)
    found = reliability_by_size(LabelledBounds(*intervals), n_bins=n_bins)
    assert np.allclose(found.edges, edges, rtol=1e-6)
    assert found.n_pixels.tolist() == np.bincount(bins).tolist()
    assert np.ptp(found.n_pixels) <= 1
    assert np.allclose(found.risk, [misses[bins == k].mean() for k in range(n_bins)])
    assert np.allclose(found.size_mean, [sizes[bins == k].mean() for k in range(n_bins)])


def test_four_size_bins_are_the_strata_of_the_metrics(intervals):
    assert np.array_equal(reliability_by_size(LabelledBounds(*intervals)).risk, evaluate(*intervals).stratified_risk)


def test_tied_sizes_stay_together():
    lower, upper, target = np.zeros((2, 1, 4, 4)), np.full((2, 1, 4, 4), 0.5), np.full((2, 1, 4, 4), 0.25)
    found = reliability_by_size(LabelledBounds(lower, upper, target), n_bins=3)
    assert found.n_pixels.tolist() == [32, 0, 0]
    assert np.isnan(found.risk[1:]).all()
    assert found.size_mean[0] == 0.5


@pytest.mark.parametrize("mask_channels", [1, 3])
def test_positions_equal_brute_force(intervals, mask_channels):
    *arrays, mask = intervals
    mask = mask[:, :mask_channels]
    found = risk_by_position(LabelledBounds(*arrays, mask), n_rows=4, n_columns=3)
    chosen = np.broadcast_to(mask == 1, SHAPE)
    for row in range(4):
        for column in range(3):
            cell = (..., slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
            assert found.n_pixels[row, column] == chosen[cell].sum()
            assert found.risk[row, column] == pytest.approx(missed(*arrays)[cell][chosen[cell]].mean())


def test_positions_without_pixels_are_nan(intervals):
    *arrays, mask = intervals
    mask = np.ones_like(mask)
    mask[..., :4, :] = 0
    found = risk_by_position(LabelledBounds(*arrays, mask), n_rows=2, n_columns=1)
    assert found.n_pixels.tolist() == [[0], [mask.sum()]]
    assert np.isnan(found.risk[0, 0])
    finer_than_pixels = risk_by_position(LabelledBounds(*arrays), n_rows=16, n_columns=6)
    assert (np.isnan(finer_than_pixels.risk).sum(axis=0) == 8).all()
    assert finer_than_pixels.n_pixels.sum() == arrays[0].size


def test_groups_equal_brute_force(intervals):
    *arrays, mask = intervals
    found = risk_by_group(LabelledBounds(*arrays, mask, groups=GROUPS), delta=0.2)
    assert [entry.group for entry in found] == ["a", "b", "c", "d"]
    chosen = mask == 1
    risks = np.array([missed(*arrays)[i][chosen[i]].mean() for i in range(len(GROUPS))])
    sizes = np.array([(arrays[1] - arrays[0])[i][chosen[i]].mean() for i in range(len(GROUPS))])
    for entry in found:
        inside = entry.group == GROUPS
        assert entry.n_images == inside.sum()
        assert entry.risk == pytest.approx(risks[inside].mean())
        assert entry.size_mean == pytest.approx(sizes[inside].mean())
        if inside.sum() == 1:
            assert math.isnan(entry.risk_low) and math.isnan(entry.risk_high)
        else:
            expected = stats.t.interval(0.8, inside.sum() - 1, risks[inside].mean(), stats.sem(risks[inside]))
            assert (entry.risk_low, entry.risk_high) == pytest.approx(np.clip(expected, 0, 1))


def test_intervals_of_groups_are_clipped():
    lower, target = np.zeros((2, 1, 1, 10)), np.full((2, 1, 1, 10), 0.25)
    upper = np.full_like(lower, 0.5)
    upper[1, ..., :5] = 0.1
    (found,) = risk_by_group(LabelledBounds(lower, upper, target, groups=[7, 7]))
    assert (found.group, found.risk, found.risk_low, found.risk_high) == (7, 0.25, 0.0, 1.0)


def test_images_without_evaluated_pixels_are_left_out_of_their_group(intervals):
    *arrays, mask = intervals
    mask = mask.copy()
    mask[[1, 2]] = 0
    found = {entry.group: entry for entry in risk_by_group(LabelledBounds(*arrays, mask, groups=GROUPS))}
    assert found["a"].n_images == 0
    assert math.isnan(found["a"].risk) and math.isnan(found["a"].size_mean)
    assert found["c"].n_images == 2


@pytest.fixture(scope="module")
def pool():
    return make_intervals((60, 1, 8, 8), seed=1)


@pytest.mark.parametrize("groups", [None, np.arange(60) // 3])
def test_risk_curve_equals_brute_force(pool, groups):
    *arrays, mask = pool
    found = curve(LabelledBounds(*arrays, mask, groups=groups), ucb="wsr", order_seed=None, **GUARANTEE)
    critical = np.where(mask == 1, critical_lambda(*arrays, "multiplicative"), np.nan).reshape(60, -1)
    n_pixels = (mask == 1).reshape(60, -1).sum(axis=1)
    per_unit = np.arange(60) if groups is None else groups
    assert found.n_units == per_unit.max() + 1
    for k in range(0, len(found.lambdas), 7):
        scale = found.lambdas[k]
        images = (critical > scale).sum(axis=1) / n_pixels
        losses = np.array([images[per_unit == unit].mean() for unit in range(found.n_units)])
        low, high = (bound.clip(0, 1) for bound in get_scaling("multiplicative").apply(*arrays[:2], scale))
        assert found.risk[k] == pytest.approx(losses.mean(), rel=1e-6)
        assert found.risk_ucb[k] == pytest.approx(wsr_ucb(losses, 0.1), abs=1e-5)
        assert found.size_mean[k] == pytest.approx(
            np.mean([(high - low)[i][mask[i] == 1].mean() for i in range(60)]), abs=2e-3
        )


def test_risk_curve_spans_the_wanted_risks(pool):
    found = curve(LabelledBounds(*pool), ucb="hoeffding_bentkus", n_points=20, **GUARANTEE)
    assert 15 <= len(found.lambdas) <= 20
    assert (np.diff(found.lambdas) > 0).all() and (np.diff(found.risk) < 0).all()
    assert found.risk[0] == pytest.approx(0.3, abs=0.02) and found.risk[-1] == pytest.approx(0.02, abs=0.005)
    assert (np.abs(np.diff(found.risk) + 0.28 / 19) < 0.01).all()
    assert (np.diff(found.size_mean) > 0).all()
    assert found.risk_ucb[5] == hoeffding_bentkus_ucb(found.risk[5], 60, 0.1)


def test_risk_curve_crosses_alpha_at_the_calibrated_scale(pool):
    *arrays, mask = pool
    guarantee = {"alpha": 0.25, "delta": 0.1, "ucb": "hoeffding", "scaling": "interval"}
    calibration = calibrate(*arrays, mask=mask, **guarantee)
    found = curve(LabelledBounds(*arrays, mask), n_points=300, **guarantee)
    passing = found.lambdas[found.risk_ucb <= 0.25][0]
    failing = found.lambdas[found.risk_ucb > 0.25][-1]
    assert failing < calibration.lambda_hat <= passing


@pytest.mark.parametrize("function", FUNCTIONS)
def test_zarr_and_torch_give_what_numpy_gives(intervals, function, tmp_path, monkeypatch):
    expected = function(*intervals)
    stored = []
    for index, array in enumerate(intervals):
        stored.append(zarr.create_array(tmp_path / f"{index}", shape=array.shape, dtype="f4", chunks=(2, 3, 4, 6)))
        stored[-1][:] = array
    monkeypatch.setattr(zarr.Array, "__array__", lambda *_, **__: pytest.fail("read whole"))
    monkeypatch.setattr("conffusion.core.labelled_bounds._READ_PIXELS", 300)
    assert same(function(*stored), expected)
    assert same(function(*(torch.from_numpy(array) for array in intervals)), expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_values_and_shapes_are_refused(intervals, function):
    lower, upper, target, mask = intervals
    broken = upper.copy()
    broken[4, 1, 2, 3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        function(lower, broken, target)
    hidden = np.ones_like(mask)
    hidden[4, 1, 2, 3] = 0
    function(lower, broken, target, hidden)
    with pytest.raises(DataError, match="selects no pixel"):
        function(lower, upper, target, np.zeros_like(mask))
    with pytest.raises(ShapeError, match=r"upper has shape \(9, 3, 7, 6\)"):
        function(lower, upper[:, :, 1:], target)
    with pytest.raises(ShapeError, match=r"mask has shape \(8, 3, 8, 6\)"):
        function(lower, upper, target, mask[1:])


def test_bad_settings_are_refused(intervals):
    *arrays, mask = intervals
    for function, settings, message in [
        (reliability_by_size, {"n_bins": 1}, "n_bins = 1: must be at least 2"),
        (risk_by_position, {"n_rows": 0}, "n_rows = 0: must be at least 1"),
        (risk_by_group, {"delta": 1.0}, "delta = 1.0"),
        (risk_by_group, {}, "groups is missing"),
        (curve, {**GUARANTEE, "ucb": "wsr", "n_points": 1}, "n_points = 1: must be at least 2"),
        (curve, {**GUARANTEE, "ucb": "wsr", "alpha": 0.0}, "alpha = 0.0"),
        (curve, {**GUARANTEE, "ucb": "bernstein"}, "ucb = 'bernstein'"),
        (curve, {**GUARANTEE, "ucb": "wsr", "scaling": "cubic"}, "scaling = 'cubic'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            function(LabelledBounds(*arrays, mask), **settings)
    with pytest.raises(ShapeError, match="one label for each of 9 images"):
        risk_by_group(LabelledBounds(*arrays, groups=GROUPS[1:]))
    with pytest.raises(ShapeError, match=r"positions need images of shape \(N, C, H, W\)"):
        risk_by_position(LabelledBounds(*(array[:, 0] for array in arrays)))
