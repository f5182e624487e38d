import math
import time

import numpy as np
import pytest

from conffusion.calibration import CalibrationOptions, Family, LabelledBounds, critical_lambda
from conffusion.calibration.scaling import SCALINGS
from conffusion.calibration.units import group_means
from conffusion.core.randomness import keyed_generator
from conffusion.errors import CalibrationError, ConfigError, DataError, ShapeError
from conffusion.evaluation.validity import LossCurves, assess_validity, loss_curves
from tests.calibration_in_order import calibrate

MULTIPLICATIVE = Family("multiplicative")
GUARANTEE = {"alpha": 0.1, "delta": 0.1, "n_draws": 300, "seed": 3}


def make_pool(n_images, n_pixels=(3, 8, 8), seed=0, blur=0.8):
    """(lower, upper, target) whose errors share a strong factor within each image."""
    generator = np.random.default_rng(seed)
    shape = (n_images, *n_pixels)
    target = generator.uniform(0.2, 0.8, shape)
    half = 0.1 * generator.uniform(0.7, 1.3, shape)
    error = half * generator.normal(size=shape) * generator.uniform(0.2, blur, (n_images, 1, 1, 1))
    return [array.astype(np.float32) for array in (target + error - half, target + error + half, target)]


def assess(candidates, *, alpha, delta, ucb, unit, **drawing):
    options = CalibrationOptions(alpha, delta, ucb=ucb, unit=unit)
    return assess_validity(candidates, options, **drawing)


@pytest.fixture(scope="module")
def pool():
    return make_pool(300)


@pytest.fixture(scope="module")
def curves(pool):
    return loss_curves(LabelledBounds(*pool, groups=np.arange(300) // 3), MULTIPLICATIVE)


@pytest.mark.parametrize("scaling", sorted(SCALINGS))
def test_losses_are_exact_and_sizes_nearly(pool, scaling):
    mask = np.random.default_rng(1).random(pool[0].shape) < 0.5
    curves = loss_curves(LabelledBounds(*pool, mask), Family(scaling), n_points=200)
    critical = np.where(mask, critical_lambda(*pool, scaling), np.nan).reshape(300, -1)
    assert np.array_equal(curves.n_pixels, mask.reshape(300, -1).sum(axis=1))
    assert (np.diff(curves.lambdas) > 0).all()
    assert curves.lambdas[-1] == np.nanmax(critical[critical < np.inf])
    assert curves.losses.dtype == curves.sizes.dtype == np.float32
    for index in range(0, len(curves.lambdas), 13):
        scale = curves.lambdas[index]
        missed = (critical > scale).sum(axis=1) / curves.n_pixels
        assert np.allclose(curves.losses[:, index], missed, rtol=1e-6)
        low, high = (np.clip(bound, 0, 1) for bound in SCALINGS[scaling].apply(*pool[:2], scale))
        sizes = np.where(mask, high - low, 0).reshape(300, -1).sum(axis=1) / curves.n_pixels
        assert np.allclose(curves.sizes[:, index], sizes, atol=2e-3)


def test_grid_is_dense_where_it_matters(curves):
    risk = curves.losses.mean(axis=0)
    inside = np.flatnonzero(risk <= 0.3)
    assert len(inside) > 900
    assert -np.diff(risk[inside]).min() < 0.002
    assert risk[0] > 0.95


def test_unreachable_pixels_stay_missed_at_the_last_point():
    target = np.full((20, 1, 1, 10), 0.5)
    target[:, 0, 0, 0] = 0.0
    curves = loss_curves(LabelledBounds(target * 0 + 0.3, target * 0 + 0.7, target), MULTIPLICATIVE)
    assert np.allclose(curves.losses[:, -1], 0.1)
    with pytest.raises(DataError, match="no lambda covers any pixel"):
        loss_curves(LabelledBounds(target * 0 + 0.3, target * 0 + 0.7, target * 0), MULTIPLICATIVE)


def test_save_and_load(curves, tmp_path):
    named = LossCurves(curves.lambdas, curves.losses, curves.sizes, curves.n_pixels, np.array(["a", "b"] * 150))
    for original in (curves, named, LossCurves(curves.lambdas, curves.losses, curves.sizes, curves.n_pixels)):
        original.save(tmp_path / "curves.npz")
        loaded = LossCurves.load(tmp_path / "curves.npz")
        for name, value in vars(original).items():
            assert np.array_equal(getattr(loaded, name), value) if value is not None else loaded.groups is None
    np.savez(tmp_path / "other.npz", x=1)
    with pytest.raises(DataError, match=r"other\.npz"):
        LossCurves.load(tmp_path / "other.npz")


def draws(n, n_units, guarantee):
    return keyed_generator("validity", guarantee["seed"]).integers(n_units, size=(guarantee["n_draws"], n))


@pytest.mark.parametrize(
    ("ucb", "unit", "n"),
    [("wsr", "image", 60), ("hoeffding_bentkus", "image", 40), ("official", "pixel", 30), ("wsr", "group", 50)],
)
def test_each_draw_is_calibrated_as_by_calibrate(pool, curves, ucb, unit, n):
    """The same images given to `calibrate` have a lambda_hat at most one grid point below."""
    guarantee = {**GUARANTEE, "n_draws": 12}
    violations, infeasible, sizes = 0, 0, []
    members = np.arange(300)[:, None] if unit == "image" else np.arange(300).reshape(100, 3)
    losses, widths = curves.losses, curves.sizes
    if unit == "group":
        losses, widths = (group_means(values, curves.groups) for values in (losses, widths))
    for drawn in draws(n, len(members), guarantee):
        images, groups = members[drawn].reshape(-1), np.repeat(np.arange(n), members.shape[1])
        try:
            found = calibrate(
                *(array[images] for array in pool),
                alpha=0.1,
                delta=0.1,
                ucb=ucb,
                unit=unit,
                groups=groups,
                scaling="multiplicative",
                order_seed=None,
            )
        except CalibrationError:
            infeasible += 1
            continue
        at = np.searchsorted(curves.lambdas, found.lambda_hat)
        violations += losses[:, at].mean() > 0.1
        sizes.append(widths[:, at].mean())
    assessed = assess([curves], n=n, ucb=ucb, unit=unit, **guarantee)
    assert assessed.infeasible_rate == pytest.approx(infeasible / 12)
    assert assessed.interval_size_mean == pytest.approx(np.mean(sizes), rel=1e-5)
    assert assessed.violation_rate == pytest.approx(violations / 12)
    assert (assessed.n, assessed.n_draws) == (n, 12)


def test_pixels_as_units_violate_the_risk_and_images_control_it(curves):
    official = assess([curves], n=60, ucb="official", unit="pixel", **GUARANTEE)
    assert official.violation_rate > 0.25
    for ucb, unit in [("wsr", "image"), ("hoeffding_bentkus", "image"), ("wsr", "group")]:
        valid = assess([curves], n=60, ucb=ucb, unit=unit, **GUARANTEE)
        assert valid.violation_rate <= 0.1 + 2 * max(valid.standard_error, 0.01)
        assert valid.interval_size_mean > official.interval_size_mean
    expected = math.sqrt(official.violation_rate * (1 - official.violation_rate) / 300)
    assert official.standard_error == pytest.approx(expected)


def test_promise_of_pixels_weighs_images_by_their_pixels():
    lambdas = np.array([1.0, 2.0, 3.0])
    losses = np.array([[1.0, 0.5, 0.0], [1.0, 0.0, 0.0]], dtype=np.float32)
    curves = LossCurves(lambdas, losses, losses * 0 + np.float32([0.1, 0.2, 0.3]), np.array([100, 10000]))
    settings = {**GUARANTEE, "n_draws": 2000, "n": 1}
    assessed = assess([curves], ucb="official", unit="pixel", **settings)
    # Drawing the large image gives lambda 2, whose pool risk is 50 / 10100; the small one gives lambda 3.
    assert assessed.violation_rate == 0.0
    assert assessed.interval_size_mean == pytest.approx(0.25, abs=0.01)


def test_infeasible_draws_are_counted_apart(curves):
    assessed = assess([curves], n=5, ucb="hoeffding_bentkus", unit="image", **GUARANTEE)
    assert (assessed.infeasible_rate, assessed.violation_rate) == (1.0, 0.0)
    assert math.isnan(assessed.interval_size_mean)


def test_reselection_takes_the_narrowest_candidate_of_each_draw(pool, curves):
    wide = loss_curves(LabelledBounds(*make_pool(300, blur=1.6), groups=curves.groups), MULTIPLICATIVE)
    settings = {"n": 60, "ucb": "official", "unit": "pixel", **GUARANTEE}
    alone = assess([curves], **settings)
    assert assess([wide, curves, wide], reselect=True, **settings) == alone
    ungrouped = LossCurves(curves.lambdas, curves.losses, curves.sizes, curves.n_pixels)
    with pytest.raises(ShapeError, match="groups"):
        assess([curves, ungrouped], reselect=True, **settings)
    # Candidates that differ by chance only: choosing the best on the set that calibrates violates more often.
    similar = [loss_curves(LabelledBounds(*make_pool(300, seed=seed)), MULTIPLICATIVE, 256) for seed in range(5)]
    chosen = assess(similar, reselect=True, **settings)
    rates = [assess([one], **settings).violation_rate for one in similar]
    assert chosen.violation_rate > np.mean(rates)


def test_results_depend_on_the_seed_only(curves):
    settings = {"n": 40, "ucb": "wsr", "unit": "image"}
    first = assess([curves], **settings, **GUARANTEE)
    assert first == assess([curves], **settings, **GUARANTEE)
    assert first != assess([curves], **settings, **{**GUARANTEE, "seed": 4})


def test_bad_requests_are_named(curves):
    good = {"n": 10, "ucb": "wsr", "unit": "image", **GUARANTEE}
    for change, message in [
        ({"alpha": 2.0}, "alpha = 2.0"),
        ({"delta": 0.0}, "delta = 0.0"),
        ({"n": 0}, "n = 0"),
        ({"unit": "face"}, "unit = 'face'"),
        ({"ucb": "magic"}, "ucb = 'magic'"),
        ({"unit": None}, "unit is missing"),
        ({"unit": "pixel"}, "not assessed"),
    ]:
        with pytest.raises(ConfigError, match=message):
            assess([curves], **{**good, **change})
    with pytest.raises(ConfigError, match="2 candidates"):
        assess([curves, curves], **good)
    with pytest.raises(ConfigError, match="n_points"):
        loss_curves(LabelledBounds(*make_pool(3)), Family("additive"), n_points=5)
    ungrouped = LossCurves(curves.lambdas, curves.losses, curves.sizes, curves.n_pixels)
    with pytest.raises(DataError, match="groups"):
        assess([ungrouped], **{**good, "unit": "group"})
    smaller = LossCurves(curves.lambdas, curves.losses[:9], curves.sizes[:9], curves.n_pixels[:9])
    with pytest.raises(ShapeError, match="candidate"):
        assess([curves, smaller], reselect=True, **good)


def test_a_thousand_draws_take_seconds():
    pool = make_pool(1000, (3, 16, 16))
    start = time.process_time()
    curves = loss_curves(LabelledBounds(*pool), MULTIPLICATIVE)
    for ucb, unit in [("wsr", "image"), ("official", "pixel")]:
        assess([curves], n=200, ucb=ucb, unit=unit, **{**GUARANTEE, "n_draws": 1000})
    assert time.process_time() - start < 6.0
