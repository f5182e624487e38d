import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.krcps_convex import GAMMAS, ConvexProblem, fit_convex
from conffusion.calibration.krcps import PixelGroups, fit_pixel_groups, quantile_groups
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import CalibrationError, ConfigError, DataError, ShapeError
from tests import conformance
from tests.calibration_in_order import calibrate

FITS = {"convex": fit_convex, "direct": fit_pixel_groups}
MODES = list(FITS)
PROCEDURES, GROUPS = conformance.load("stats/krcps_procedures")


def make_bounds(n_images, size=12, seed=0, n_channels=1):
    """(lower, upper, target) whose errors grow from left to right faster than their intervals; bounds in [0, 1]."""
    generator = np.random.default_rng(seed)
    shape = (n_images, n_channels, size, size)
    target = generator.uniform(0.2, 0.8, shape)
    half = 0.1 * generator.uniform(0.6, 1.4, shape)
    middle = target + np.linspace(0.03, 0.11, size) * generator.normal(size=shape)
    return [np.clip(array, 0, 1).astype(np.float32) for array in (middle - half, middle + half, target)]


def risk_and_length(bounds, target, mask=None):
    """Share of evaluated values missed, and mean length over them."""
    chosen = np.ones(target.shape, bool) if mask is None else np.broadcast_to(mask == 1, target.shape)
    missed = (bounds[0] > target) | (bounds[1] < target)
    return missed[chosen].mean(), (bounds[1] - bounds[0])[chosen].mean()


@pytest.fixture(scope="module")
def split():
    return make_bounds(60)


@pytest.fixture(scope="module", params=[2, 3])
def published(request):
    """A case of the K-RCPS fixture: its description, groups, and the bounds of the images of its convex problem."""
    case = PROCEDURES["cases"][request.param]
    rule, generator = case["data"], np.random.default_rng(case["proc_seed"])
    arrays = conformance.synthetic_bounds(rule["seed"], rule["n"], 1, rule["h"], rule["w"], rule["spread"])
    shift = np.where(np.arange(rule["w"]) >= rule["w"] // 2, rule["shift"], 0)
    arrays = [np.clip(array + shift, 0, 1).astype(np.float32) for array in arrays[:2]] + [arrays[2]]
    chosen = generator.permutation(rule["n"])[: case["n_opt"]]
    return case, GROUPS[f"case{request.param}_groups"], [array[chosen, 0] for array in arrays], generator


def test_groups_and_offsets_reproduce_the_published_code(published):
    case, label, (lower, upper, target), generator = published
    if case["membership"] == "01_loss_quantile":
        miss_rate = ((target < lower) | (target > upper)).mean(axis=0)
        assert np.array_equal(quantile_groups(miss_rate, case["k"]), label)
    shares = np.rint(case["prob_size"] * np.bincount(label.ravel()) / label.size).astype(int)
    places = []
    for k, share in enumerate(shares):
        rows, columns = np.nonzero(label == k)
        picked = generator.choice(len(rows), size=share, replace=False)
        places.append((slice(None), rows[picked], columns[picked]))
    widths = [(upper - lower)[place] for place in places]
    distances = [np.abs(target - (lower + upper) / 2)[place] for place in places]
    problem = ConvexProblem(widths, distances, shares / shares.sum(), case["epsilon"])
    objectives = [shares @ problem.solve(gamma) for gamma in case["gamma"]]
    tolerance = PROCEDURES["tolerance"]
    assert np.allclose(objectives, case["objective_per_gamma"], **tolerance["objective_per_gamma"])
    assert np.allclose(problem.best(case["gamma"]), case["lambda_k"], rtol=0, **tolerance["lambda_k"])


def test_convex_problem_against_a_fine_grid():
    generator = np.random.default_rng(2)
    widths = [generator.uniform(0.0, 0.3, 80), generator.uniform(0.0, 0.3, 50)]
    distances = [generator.uniform(0.0, 0.12, 80), generator.uniform(0.0, 0.25, 50)]
    problem = ConvexProblem(widths, distances, np.array([0.4, 0.6]), 0.1)
    grid = np.linspace(0, 0.5, 2001)
    for gamma in (0.3, 0.6):
        q = gamma / (1 - gamma)
        with np.errstate(divide="ignore"):
            losses = [
                np.maximum(2 * (1 + q) * d[:, None] / (w[:, None] + 2 * grid) - q, 0).mean(axis=0)
                for w, d in zip(widths, distances, strict=True)
            ]
        kept = 0.4 * losses[0][:, None] + 0.6 * losses[1] <= 0.1
        best = np.where(kept, 0.4 * grid[:, None] + 0.6 * grid, np.inf).min()
        assert problem.shares @ problem.solve(gamma) == pytest.approx(best, abs=3e-4)


def test_convex_problem_without_solution_is_refused():
    problem = ConvexProblem([np.full(9, 0.1)], [np.full(9, 0.9)], np.ones(1), 0.05)
    assert problem.solve(GAMMAS[0]) is None
    with pytest.raises(CalibrationError, match="raise the level"):
        problem.best()


@given(
    rates=st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, np.nan]), min_size=1, max_size=30), n_groups=st.integers(1, 6)
)
def test_groups_are_ordered_by_miss_rate(rates, n_groups):
    rates = np.array(rates)
    if np.isnan(rates).all():
        return
    label = quantile_groups(rates, n_groups)
    assert ((label == -1) == np.isnan(rates)).all()
    assert set(label[label >= 0]) == set(range(label.max() + 1))
    assert label.max() < n_groups
    known = rates[label >= 0]
    assert (np.diff(label[label >= 0][np.argsort(known, kind="stable")]) >= 0).all()
    assert len({(rate, group) for rate, group in zip(known, label[label >= 0], strict=True)}) == len(set(known))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("n_groups", [1, 4])
def test_level_is_kept_on_the_fitting_data(split, mode, level, n_groups):
    groups = FITS[mode](LabelledBounds(*split), n_groups=n_groups, level=level)
    assert groups.label.shape == (1, 12, 12)
    assert groups.offsets.shape == (n_groups,)
    assert groups.offsets.dtype == np.float64
    risk, _ = risk_and_length(groups.apply(*split[:2]), split[2])
    assert risk <= level
    if mode == "direct":  # all misses allowed are used, up to one pixel
        assert risk > level - 1.5 / split[2].size


@pytest.mark.parametrize("n_groups", [1, 2, 4])
def test_direct_is_no_wider_than_convex_at_the_same_risk(split, n_groups):
    convex = fit_convex(LabelledBounds(*split), n_groups=n_groups, level=0.1)
    risk, length = risk_and_length(convex.apply(*split[:2]), split[2])
    direct = fit_pixel_groups(LabelledBounds(*split), n_groups=n_groups, level=risk)
    direct_risk, direct_length = risk_and_length(direct.apply(*split[:2]), split[2])
    assert direct_risk <= risk
    assert direct_length <= length * (1 + 1e-3)


def test_more_groups_help_where_errors_differ(split):
    lengths = []
    for n_groups in (1, 6):
        groups = fit_pixel_groups(LabelledBounds(*split), n_groups=n_groups, level=0.1)
        lengths.append(risk_and_length(groups.apply(*split[:2]), split[2])[1])
    assert lengths[1] < 0.99 * lengths[0]
    assert (np.diff(groups.offsets) > 0).all()  # harder groups are widened more


def every_choice(groups, arrays):
    """(missed, length) of each combination of offsets that can be best: critical ones, and full collapse."""
    lower, upper, target = (array.astype(np.float64) for array in arrays)
    per_group = []
    for k in range(len(groups.offsets)):
        low, high, truth = (array[:, groups.label == k].reshape(-1) for array in (lower, upper, target))
        offsets = np.unique(np.append(np.maximum(low - truth, truth - high), ((low - high) / 2).min()))
        moved = [PixelGroups(np.zeros((1, 1, len(low)), int), np.array([offset])) for offset in offsets]
        bounds = [one.apply(low[None, None, None], high[None, None, None]) for one in moved]
        critical = np.maximum(low - truth, truth - high)
        per_group.append([((critical > o).sum(), (b[1] - b[0]).sum()) for o, b in zip(offsets, bounds, strict=True)])
    sums = [np.sum(choice, axis=0) for choice in itertools.product(*per_group)]
    return np.array(sums)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(1, 1, 2, 3), (2, 1, 2, 2), (3, 1, 1, 3), (4, 1, 2, 2)]),
    n_groups=st.integers(1, 2),
    level=st.sampled_from([0.1, 0.25, 0.5, 0.8]),
)
def test_direct_mode_against_every_choice_of_offsets(seed, shape, n_groups, level):
    """No choice has fewer length + price * missed, so none at its risk is shorter; what is left over is also used."""
    generator = np.random.default_rng(seed)
    target, below, above = generator.random((3, *shape))
    arrays = [np.clip(target - 0.4 * below + 0.1, 0, 1), np.clip(target + 0.4 * above - 0.1, 0, 1), target]
    groups = fit_pixel_groups(LabelledBounds(*arrays), n_groups=n_groups, level=level)
    choices, budget = every_choice(groups, arrays), np.floor(level * target.size + 1e-9)
    risk, length = (value * target.size for value in risk_and_length(groups.apply(*arrays[:2]), target))
    allowed = choices[choices[:, 0] <= budget + 1e-9]
    assert round(risk) <= budget
    assert length >= allowed[:, 1].min() - 1e-9
    # The allowed choices on the lower hull of (missed, length) are those that some price makes best.
    prices = np.geomspace(1e-6, 1e3, 400)
    best = choices[np.argmin(choices[:, 1] + prices[:, None] * choices[:, 0], axis=1)]
    assert length <= best[best[:, 0] <= budget][:, 1].min() + 1e-9
    if n_groups == 1:
        assert length == pytest.approx(allowed[:, 1].min(), abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_sets_grow_with_lambda_after_the_offsets(split, mode):
    groups = FITS[mode](LabelledBounds(*split), n_groups=4, level=0.1)
    fresh = make_bounds(80, seed=1)
    moved = groups.apply(*fresh[:2])
    assert (moved[0] <= moved[1]).all()
    for scaling, scales in [("additive", (-0.02, 0.0, 0.05)), ("interval", (0.5, 1.0, 1.5))]:
        found = calibrate(*moved, fresh[2], alpha=0.2, delta=0.1, scaling=scaling)
        assert risk_and_length(found.apply(*moved), fresh[2])[0] <= found.risk + 1e-12 <= 0.2
        sets = [type(found)(**{**vars(found), "lambda_hat": scale}).apply(*moved) for scale in scales]
        for small, large in itertools.pairwise(sets):
            assert (large[0] <= small[0]).all()
            assert (small[1] <= large[1]).all()
    wider = PixelGroups(groups.label, groups.offsets + 0.01).apply(*fresh[:2])
    assert (wider[0] <= moved[0]).all()
    assert (moved[1] <= wider[1]).all()


def test_offsets_clamp_and_crossing_bounds_meet():
    groups = PixelGroups(np.array([[[0, 1, 2, -1]]]), np.array([0.25, -0.25, -0.125]))
    lower, upper = np.array([[[[0.125, 0.25, 0.25, 0.5]]]]), np.array([[[[0.875, 0.5, 0.75, 0.75]]]])
    low, high = groups.apply(lower, upper)
    assert low.tolist() == [[[[0.0, 0.375, 0.375, 0.5]]]]
    assert high.tolist() == [[[[1.0, 0.375, 0.625, 0.75]]]]
    with pytest.raises(ShapeError, match="groups are for images"):
        groups.apply(lower[..., :3], upper[..., :3])


@pytest.mark.parametrize("mode", MODES)
def test_masked_positions_neither_count_nor_move(mode):
    arrays = make_bounds(40, seed=3, n_channels=3)
    mask = np.zeros((40, 1, 12, 12), np.uint8)
    mask[:, :, 3:9, 3:9] = 1
    mask[::2, :, 3] = 0
    spoilt = [np.where(mask == 1, array, np.nan) for array in arrays]
    groups = FITS[mode](LabelledBounds(*spoilt, mask), n_groups=3, level=0.1)
    inside = np.broadcast_to(mask.any(axis=0), (3, 12, 12))
    assert ((groups.label >= 0) == inside).all()
    bounds = groups.apply(*arrays[:2])
    assert risk_and_length(bounds, arrays[2], mask)[0] <= 0.1
    for before, after in zip(arrays, bounds, strict=False):
        assert np.array_equal(after[:, ~inside], before[:, ~inside].astype(np.float64))
    full = FITS[mode](LabelledBounds(*spoilt, np.repeat(mask, 3, axis=1)), n_groups=3, level=0.1)
    assert np.array_equal(full.offsets, groups.offsets)


def test_crossed_bounds_and_equal_bounds():
    lower, upper, target = make_bounds(30, seed=4)
    lower, upper = lower.copy(), upper.copy()
    lower[::3], upper[::3] = upper[::3].copy(), lower[::3].copy()
    upper[1::3] = lower[1::3]
    for mode in MODES:
        groups = FITS[mode](LabelledBounds(lower, upper, target), n_groups=2, level=0.2)
        assert risk_and_length(groups.apply(lower, upper), target)[0] <= 0.2


def test_bad_arguments(split):
    good = {"n_groups": 2, "level": 0.1}
    for change, match in [({"n_groups": 0}, "n_groups"), ({"level": 1.0}, "level")]:
        with pytest.raises(ConfigError, match=match):
            fit_pixel_groups(LabelledBounds(*split), **{**good, **change})
    lower, upper, target = split
    with pytest.raises(ShapeError, match="upper"):
        fit_pixel_groups(LabelledBounds(lower, upper[1:], target), **good)
    with pytest.raises(ShapeError, match="N, C, H, W"):
        fit_pixel_groups(LabelledBounds(lower[0], upper[0], target[0]), **good)
    with pytest.raises(ShapeError, match="mask"):
        fit_pixel_groups(LabelledBounds(lower, upper, target, np.ones((60, 2, 12, 12))), **good)
    with pytest.raises(DataError, match="no pixel"):
        fit_pixel_groups(LabelledBounds(lower, upper, target, np.zeros_like(target)), **good)
    with pytest.raises(DataError, match="upper"):
        fit_pixel_groups(LabelledBounds(lower, np.where(upper > 0.9, np.nan, upper), target), **good)
    with pytest.raises(CalibrationError, match=r"outside \[0, 1\]"):
        fit_pixel_groups(LabelledBounds(lower, upper, target + 1), **good)


def test_arguments_are_not_written_to(split):
    copies = [array.copy() for array in split]
    for mode in MODES:
        FITS[mode](LabelledBounds(*split), n_groups=2, level=0.1).apply(*split[:2])
    assert all(np.array_equal(array, copy) for array, copy in zip(split, copies, strict=True))
