import dataclasses
import math
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import zarr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import conffusion.calibration as library
from conffusion.calibration import Calibration, clt_ucb, critical_lambda, empirical_bernstein_ucb, star_ucb, wsr_ucb
from conffusion.calibration import search as search_module
from conffusion.calibration.risk_bounds import BOUNDS, StarBound, VarianceBound
from conffusion.calibration.units import group_index
from conffusion.core.choices import PLAIN_FAMILIES
from conffusion.errors import CalibrationError, ConfigError, DataError, ShapeError
from tests import calibration_fixtures, conformance
from tests.calibration_in_order import calibrate

UCBS = "bentkus clt conformal_risk_control empirical_bernstein hoeffding hoeffding_bentkus official star wsr"
CONTRACT = {f"{name}_ucb" for name in UCBS.split()} | {"Calibration", "calibrate", "critical_lambda"}
CONTRACT |= {"Family", "attainable_risk", "choose_family", "fit_family", "LearnThenTest", "learn_then_test"}
CONTRACT |= {
    "EveryGroup",
    "ImageQuantile",
    "IntervalCalibrator",
    "MeanRisk",
    "Guarantee",
    "GuaranteePart",
    "Guarantees",
    "PromisePart",
    "Promises",
    "Selection",
    "WidestQuarter",
    "calibrate_guarantees",
    "calibrate_promises",
    "CalibrationOptions",
    "CalibrationRecord",
    "LabelledBounds",
    "read_calibration",
    "write_calibration",
}
BOUNDS_OF_LOSSES = {"wsr": wsr_ucb, "star": star_ucb, "empirical_bernstein": empirical_bernstein_ucb, "clt": clt_ucb}
PAPER = {"alpha": 0.1, "delta": 0.1, "unit": "pixel", "ucb": "official"}


@pytest.fixture(scope="module")
def faces():
    """(lower, upper, target) of 60 images whose errors differ from image to image."""
    lower, upper, target = conformance.synthetic_bounds(7, 60, 3, 10, 10, 0.6)
    blur = np.random.default_rng(8).uniform(0.5, 1.5, (60, 1, 1, 1)).astype(np.float32)
    middle = target + ((lower + upper) / 2 - target) * blur
    return np.clip(middle - (upper - lower) / 2, 0, 1), np.clip(middle + (upper - lower) / 2, 0, 1), target


def fixture_cases():
    for name in ("sr", "inpainting", "g"):
        description, _ = conformance.load(f"stats/calibrate_{name}")
        for case in description["cases"]:
            grid = description["grids"][case["task"]] if name == "g" else description["lambda_grid"]
            masked = name == "inpainting" or case.get("task") == "inpainting"
            label = "-".join([name, str(case["seed"]), case.get("mask", ""), case.get("special", "")[:24]])
            yield pytest.param(case, (grid["start"], grid["end"], grid["num"]), masked, id=label)


@pytest.mark.parametrize(("case", "grid", "masked"), list(fixture_cases()))
def test_official_scan_and_exact_search_against_fixtures(case, grid, masked):
    bounds = calibration_fixtures.bounds(case)
    mask = calibration_fixtures.mask(case, bounds[2]) if masked else None
    step = (grid[1] - grid[0]) / (grid[2] - 1)
    if case["calibrated"]["risk"] > 0.1 or case["lambda_hat"] > grid[1] + step / 2:
        # The official code stays silent where the top of the grid fails or the grid runs out.
        with pytest.raises(CalibrationError, match="grid"):
            calibrate(*bounds, mask=mask, lambda_grid=grid, **PAPER)
        return
    scanned = calibrate(*bounds, mask=mask, lambda_grid=grid, **PAPER)
    exact = calibrate(*bounds, mask=mask, **PAPER)
    assert scanned.lambda_hat == pytest.approx(case["lambda_hat"], abs=1e-6)
    if case.get("mask") != "mixed_mask":  # there the official metrics weigh images, not pixels, equally
        assert scanned.risk == pytest.approx(case["calibrated"]["risk"], rel=1e-5, abs=1e-6)
    if case["calibrated"]["risk"] == 0.0:  # the official bound is 1 at risk 0, ours is not
        assert exact.lambda_hat == pytest.approx(1 / 1.5, abs=1e-6)
    else:
        assert scanned.lambda_hat - step <= exact.lambda_hat <= scanned.lambda_hat
    assert exact.risk_ucb <= 0.1


def unit_losses(missed, chosen, groups, unit, weights=None):
    if unit == "pixel":
        return missed[chosen].astype(float)
    given = (chosen if weights is None else chosen * weights).reshape(len(missed), -1)
    losses = np.where(missed.reshape(len(missed), -1), given, 0).sum(1) / given.sum(1)
    if unit == "group":
        index = group_index(groups, len(losses))
        return np.array([losses[index == k].mean() for k in range(index.max() + 1)])
    return losses


def brute_force(arrays, chosen, groups, guarantee, weights=None):
    """(lambda_hat, risk) by trying every critical value from the top down, or None."""
    critical = critical_lambda(*arrays, guarantee["scaling"])
    best = None
    for scale in np.unique(critical[chosen & (critical < np.inf)])[::-1]:
        losses = unit_losses(critical > scale, chosen, groups, guarantee["unit"], weights)
        ucb, of_losses, delta = guarantee["ucb"], BOUNDS_OF_LOSSES.get(guarantee["ucb"]), guarantee["delta"]
        bound = of_losses(losses, delta) if of_losses else BOUNDS[ucb].ucb(losses.mean(), len(losses), delta)
        if bound > guarantee["alpha"] + 1e-12 or (ucb == "official" and losses.mean() >= guarantee["alpha"]):
            break
        best = scale, losses.mean()
    return best


@settings(max_examples=400)
@given(
    seed=st.integers(0, 2**32 - 1),
    shades=st.sampled_from([None, 2, 5, 20]),
    dtype=st.sampled_from([np.float32, np.float64]),
    scaling=st.sampled_from(PLAIN_FAMILIES),
    ucb=st.sampled_from(sorted(BOUNDS)),
    unit=st.sampled_from(["image", "group", "pixel"]),
    levels=st.tuples(st.sampled_from([0.1, 0.3, 0.6]), st.sampled_from([0.1, 0.4, 0.8])),
)
def test_exact_search_equals_brute_force(seed, shades, dtype, scaling, ucb, unit, levels):
    generator = np.random.default_rng(seed)
    shape = (generator.integers(1, 40), generator.integers(1, 3), 2, generator.integers(1, 4))
    target, below, above = generator.random((3, *shape))
    arrays = [np.clip(target - 0.3 * below + 0.05, 0, 1), np.clip(target + 0.3 * above - 0.05, 0, 1), target]
    arrays = [(np.rint(array * shades) / shades if shades else array).astype(dtype) for array in arrays]
    chosen = generator.random(shape) < 0.7
    chosen[:, 0, 0, 0] = True
    groups = [f"person {k}" for k in generator.integers(0, max(1, shape[0] // 2), shape[0])]
    guarantee = {"scaling": scaling, "ucb": ucb, "unit": unit, "alpha": levels[0], "delta": levels[1]}
    assume(not (unit == "pixel" and isinstance(BOUNDS[ucb], VarianceBound | StarBound)))  # refused
    expected = brute_force(arrays, chosen, groups, guarantee)
    if expected is None:
        with pytest.raises(CalibrationError):
            calibrate(*arrays, mask=chosen, groups=groups, **guarantee)
        return
    found = calibrate(*arrays, mask=chosen, groups=groups, **guarantee)
    assert found.lambda_hat == expected[0]
    assert found.risk == pytest.approx(expected[1], abs=1e-12)
    low, high = found.apply(arrays[0], arrays[1])
    realised = unit_losses(~((low <= arrays[2]) & (arrays[2] <= high)), chosen, groups, unit).mean()
    assert realised <= found.risk + 1e-12
    if dtype == np.float32:  # in float64 pixels can be covered whose critical value is larger by rounding only
        assert realised == pytest.approx(found.risk, abs=1e-12)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    shades=st.sampled_from([None, 4, 20]),
    kind=st.sampled_from(["whole", "real", "one channel", "wide range"]),
    scaling=st.sampled_from(PLAIN_FAMILIES),
    ucb=st.sampled_from(sorted(set(BOUNDS) - {"official"})),
    unit=st.sampled_from(["image", "group"]),
    levels=st.tuples(st.sampled_from([0.1, 0.3, 0.6]), st.sampled_from([0.1, 0.4, 0.8])),
)
def test_exact_search_with_weights_equals_brute_force(seed, shades, kind, scaling, ucb, unit, levels):
    generator = np.random.default_rng(seed)
    shape = (generator.integers(1, 40), generator.integers(1, 3), 2, generator.integers(1, 4))
    target, below, above = generator.random((3, *shape))
    arrays = [np.clip(target - 0.3 * below + 0.05, 0, 1), np.clip(target + 0.3 * above - 0.05, 0, 1), target]
    arrays = [np.rint(array * shades) / shades if shades else array for array in arrays]
    weights = generator.random(shape if kind != "one channel" else (shape[0], 1, *shape[2:]))
    weights = {"whole": np.rint(3 * weights), "wide range": 10 ** (20 * weights - 12)}.get(kind, weights)
    weights[:, 0, 0, 0] = 1.0
    chosen = np.broadcast_to(weights > 0, shape)
    for array in arrays:
        array[~chosen] = np.nan  # a weight of 0 leaves out
    groups = [f"person {k}" for k in generator.integers(0, max(1, shape[0] // 2), shape[0])]
    guarantee = {"scaling": scaling, "ucb": ucb, "unit": unit, "alpha": levels[0], "delta": levels[1]}
    expected = brute_force(arrays, chosen, groups, guarantee, weights)
    if expected is None:
        with pytest.raises(CalibrationError):
            calibrate(*arrays, weights=weights, groups=groups, **guarantee)
        return
    found = calibrate(*arrays, weights=weights, groups=groups, **guarantee)
    assert found.lambda_hat == expected[0]
    assert found.risk == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize("ucb", [name for name in BOUNDS if name != "official"])
@pytest.mark.parametrize("one_channel", [False, True])
def test_weights_of_0_and_1_give_the_numbers_of_a_mask(faces, ucb, one_channel):
    generator, n_channels = np.random.default_rng(3), 1 if one_channel else 3
    mask = generator.random((60, n_channels, 10, 10)) < 0.7
    shares = np.where(mask, generator.uniform(0.1, 9, (60, 1, 1, 1)), 0)  # the unit of each image's weights is its own
    options = {"alpha": 0.2, "delta": 0.2, "ucb": ucb, "groups": np.arange(60) // 2}
    expected = calibrate(*faces, mask=mask, **options)
    assert calibrate(*faces, weights=mask, **options) == expected
    assert calibrate(*faces, weights=shares, **options) == expected
    assert calibrate(*faces, mask=mask, weights=np.ones_like(shares), **options) == expected


def test_weights_are_streamed(faces, monkeypatch):
    weights = np.random.default_rng(3).random((60, 1, 10, 10)).astype(np.float32)
    expected = calibrate(*faces, weights=weights, alpha=0.15, delta=0.2)
    assert expected.lambda_hat != calibrate(*faces, alpha=0.15, delta=0.2).lambda_hat
    arrays = []
    for array in (*faces, weights):
        arrays.append(zarr.create_array(store=zarr.storage.MemoryStore(), data=array, chunks=(7, *array.shape[1:])))
    monkeypatch.setattr("conffusion.core.labelled_bounds._READ_PIXELS", 1)
    monkeypatch.setattr(search_module, "_MAX_COLLECTED", 50)
    monkeypatch.setattr(search_module, "_MAX_EDGES", 4)
    assert calibrate(*arrays[:3], weights=arrays[3], alpha=0.15, delta=0.2) == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weights": np.full((60, 3, 10, 10), -1.0)}, DataError, "weights are negative, NaN or infinite"),
        ({"weights": np.full((60, 3, 10, 10), np.nan)}, DataError, "weights are negative, NaN or infinite"),
        ({"weights": np.full((60, 1, 10, 10), np.inf)}, DataError, "weights are negative, NaN or infinite"),
        ({"weights": np.arange(60.0).reshape(60, 1, 1, 1) * np.ones((1, 1, 10, 10))}, DataError, "image 0 are all 0"),
        ({"weights": np.ones((60, 10, 10))}, ShapeError, "weights has shape"),
        ({"weights": np.ones((60, 1, 10, 10)), "unit": "pixel", "ucb": "official"}, ConfigError, "weights with unit"),
        ({"mask": np.full((60, 1, 10, 10), 255)}, DataError, "values other than 0 and 1"),
        ({"mask": np.linspace(0, 1, 10) * np.ones((60, 1, 10, 1))}, DataError, "values other than 0 and 1"),
        ({"groups": [None, *range(59)]}, DataError, "groups: that of image 0 is missing"),
        ({"groups": [*range(59), np.nan]}, DataError, "groups: that of image 59 is missing"),
    ],
)
def test_bad_weights_masks_and_groups_are_named(faces, options, error, message):
    with pytest.raises(error, match=message):
        calibrate(*faces, alpha=0.1, delta=0.1, **options)


def test_search_in_many_small_steps_gives_the_same(faces, monkeypatch):
    expected = {ucb: calibrate(*faces, alpha=0.15, delta=0.2, ucb=ucb) for ucb in BOUNDS}
    monkeypatch.setattr(search_module, "_MAX_EDGES", 4)
    monkeypatch.setattr(search_module, "_MAX_COLLECTED", 50)
    for ucb, calibration in expected.items():
        assert calibrate(*faces, alpha=0.15, delta=0.2, ucb=ucb) == calibration


def test_bound_that_is_not_monotone_in_lambda_is_followed_from_above():
    """From lambda = 0.5 on image 0 is covered, which raises the betting bound above alpha again, up to 0.75."""
    target = np.full((1000, 20), 0.125)
    critical = np.full((1000, 20), 0.0)
    critical[:, :9], critical[0, :9] = 0.75, 0.5
    guarantee = {"alpha": 0.45018, "delta": 0.9, "scaling": "additive"}
    at_bottom, between = np.full(1000, 0.45), np.full(1000, 0.45)
    between[0] = 0.0
    assert wsr_ucb(at_bottom, 0.9) < guarantee["alpha"] < wsr_ucb(between, 0.9)
    assert calibrate(target + critical, np.ones_like(target), target, **guarantee).lambda_hat == 0.75


@pytest.mark.parametrize("scaling", PLAIN_FAMILIES)
@pytest.mark.parametrize(("unit", "ucb"), [("pixel", "official"), ("image", "wsr"), ("group", "hoeffding_bentkus")])
def test_zarr_and_torch_give_what_numpy_gives(faces, tmp_path, scaling, unit, ucb):
    mask = (np.random.default_rng(0).random(faces[0].shape) < 0.5).astype(np.uint8)
    guarantee = {"alpha": 0.3, "delta": 0.3, "unit": unit, "ucb": ucb, "scaling": scaling}
    groups = np.arange(60) // 2
    expected = calibrate(*faces, mask=mask, groups=groups, **guarantee)
    stored = []
    for index, array in enumerate([*faces, mask]):
        stored.append(
            zarr.create_array(tmp_path / f"{index}", shape=array.shape, dtype=array.dtype, chunks=(7, 3, 5, 10))
        )
        stored[-1][:] = array
    assert calibrate(*stored[:3], mask=stored[3], groups=groups, **guarantee) == expected
    tensors = [torch.from_numpy(array) for array in (*faces, mask)]
    assert calibrate(*tensors[:3], mask=tensors[3], groups=torch.from_numpy(groups), **guarantee) == expected
    low, high = expected.apply(*tensors[:2])
    assert torch.is_tensor(low)
    assert np.array_equal(low.numpy(), expected.apply(*faces[:2])[0])
    assert np.array_equal(high.numpy(), expected.apply(*stored[:2])[1])


def test_zarr_is_read_in_blocks(faces, monkeypatch, tmp_path):
    whole = calibrate(*faces, alpha=0.2, delta=0.2)
    monkeypatch.setattr("conffusion.core.labelled_bounds._READ_PIXELS", 1000)
    monkeypatch.setattr("conffusion.calibration.pixels._SAMPLE_PIXELS", 1000)
    stored = []
    for index, array in enumerate(faces):
        stored.append(zarr.create_array(tmp_path / f"{index}", shape=array.shape, dtype="f4", chunks=(4, 3, 10, 10)))
        stored[-1][:] = array
    largest = []
    original = zarr.Array.__getitem__

    def watched(self, rows):
        largest.append(rows.stop - rows.start)
        return original(self, rows)

    monkeypatch.setattr(zarr.Array, "__getitem__", watched)
    monkeypatch.setattr(zarr.Array, "__array__", lambda *_, **__: pytest.fail("read whole"))
    assert calibrate(*stored, alpha=0.2, delta=0.2) == whole
    assert max(largest) == 4


@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_pixels_does_not_matter(faces, seed):
    order = np.random.default_rng(seed).permutation(300)
    shuffled = [array.reshape(60, -1)[:, order] for array in faces]
    assert calibrate(*shuffled, alpha=0.2, delta=0.1) == calibrate(*faces, alpha=0.2, delta=0.1)


@given(levels=st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)), ucb=st.sampled_from(sorted(BOUNDS)))
def test_stricter_promises_need_larger_scales(faces, levels, ucb):
    def scale(alpha, delta):
        try:
            return calibrate(*faces, alpha=alpha, delta=delta, ucb=ucb).lambda_hat
        except CalibrationError:
            return math.inf

    low, high = sorted(levels)
    assert scale(high, 0.1) <= scale(low, 0.1)
    if ucb != "wsr":  # its bets depend on delta
        assert scale(0.2, high) <= scale(0.2, low)


def test_mask_group_and_channel_broadcast(faces):
    mask = np.zeros(faces[0].shape, dtype=np.float32)
    mask[:, :, 2:7, 3:9] = 1
    cropped = [array[:, :, 2:7, 3:9] for array in faces]
    guarantee = {"alpha": 0.3, "delta": 0.2}
    assert calibrate(*faces, mask=mask, **guarantee) == calibrate(*cropped, **guarantee)
    assert calibrate(*faces, mask=mask[:, :1], **guarantee) == calibrate(*cropped, **guarantee)
    grouped = calibrate(*faces, groups=[f"{k // 3}" for k in range(60)], **guarantee)
    assert (grouped.unit, grouped.n, grouped.n_images) == ("group", 20, 60)
    ungrouped = calibrate(*faces, groups=range(60), unit="image", **guarantee)
    assert (ungrouped.unit, ungrouped.n) == ("image", 60)


def test_groups_are_bet_on_in_order_of_first_appearance(faces):
    labels = np.random.default_rng(0).permutation(60) // 2
    order = np.concatenate([np.flatnonzero(labels == label) for label in dict.fromkeys(labels.tolist())])
    by_first_appearance = calibrate(*(array[order] for array in faces), groups=np.arange(60) // 2, alpha=0.2, delta=0.2)
    assert calibrate(*faces, groups=labels, alpha=0.2, delta=0.2).lambda_hat == by_first_appearance.lambda_hat


@pytest.mark.parametrize(("unit", "ucb"), [("image", "wsr"), ("image", "hoeffding_bentkus"), ("group", "wsr")])
def test_promise_holds_on_fresh_data(unit, ucb):
    """P(true risk > alpha) <= delta over 300 calibration sets of 40 images of four pixels that fail together."""
    alpha, delta, n_repeats = 0.2, 0.2, 300
    generator = np.random.default_rng(5)
    violations = 0
    for _ in range(n_repeats):
        hardness = generator.exponential(1.0, (40, 1)).repeat(4, axis=1)
        target = np.zeros((40, 4))
        found = calibrate(
            hardness / 100, target + 1, target, alpha=alpha, delta=delta, scaling="additive", unit=unit, ucb=ucb,
            groups=np.arange(40),
        )  # fmt: skip
        violations += math.exp(-100 * found.lambda_hat) > alpha  # P(hardness > 100 lambda)
    assert violations / n_repeats <= delta + 3 * math.sqrt(delta * (1 - delta) / n_repeats)


def test_zero_risk_everywhere_gives_the_true_smallest_lambda():
    truth = np.linspace(0.1, 0.6, 5000).reshape(50, 100)
    found = calibrate(0.5 * truth, 1.5 * truth, truth, **PAPER)
    assert found.lambda_hat == pytest.approx(2 / 3, abs=1e-12)
    constant = np.full((50, 100), 0.5)
    found = calibrate(constant, constant, constant, alpha=0.1, delta=0.1)
    assert (found.lambda_hat, found.risk) == (1.0, 0.0)
    black = np.zeros((50, 100))
    found = calibrate(black, black, black, alpha=0.1, delta=0.1)
    low, high = found.apply(black, black)
    assert (found.lambda_hat, found.risk, low.max(), high.max()) == (0.0, 0.0, 0.0, 0.0)


def test_scale_may_shrink():
    truth = np.full((60, 50), 0.5)
    lower, upper = np.full_like(truth, 0.2), np.full_like(truth, 0.9)
    assert calibrate(lower, upper, truth, alpha=0.1, delta=0.1).lambda_hat == pytest.approx(5 / 9)
    assert calibrate(lower, upper, truth, alpha=0.1, delta=0.1, scaling="additive").lambda_hat == pytest.approx(-0.3)


def test_float32_results_still_cover(faces):
    found = calibrate(*faces, **PAPER)
    low, high = (array.astype(np.float32) for array in found.apply(*faces[:2]))
    assert 1 - ((low <= faces[2]) & (faces[2] <= high)).mean() <= found.risk + 1e-12


@pytest.mark.parametrize("ucb", sorted(BOUNDS))
def test_too_few_units_name_how_many_are_needed(ucb):
    def attempt(n, value=0.5, unit="image", groups=None):
        array = np.full((n, 4), value)
        return calibrate(array, array, array, alpha=0.1, delta=0.1, ucb=ucb, unit=unit, groups=groups)

    too_few = 1 if ucb == "clt" else 5  # two losses of zero have no variance, which is all that counts there
    with pytest.raises(CalibrationError, match="images would be needed") as caught:
        attempt(too_few)
    needed = int(re.search(r"about (\d+) images", str(caught.value)).group(1))
    assert attempt(needed).lambda_hat == 1.0
    with pytest.raises(CalibrationError, match=f"about {needed} images"):
        attempt(needed - 1)
    with pytest.raises(CalibrationError, match=f"about {needed} groups"):
        attempt(10, unit="group", groups=[0, 0] * 5 if too_few < 2 else [0, 1] * 5)


def test_black_pixels_out_of_reach_of_multiplicative_scaling():
    truth = np.full((50, 100), 0.5)
    truth[:, :20] = 0.0
    lower, upper = np.full_like(truth, 0.2), np.full_like(truth, 0.9)
    with pytest.raises(CalibrationError, match="risk of alpha or more is left, so no number of images"):
        calibrate(lower, upper, truth, alpha=0.1, delta=0.1)
    truth[:, 2:20] = 0.5
    assert calibrate(lower, upper, truth, alpha=0.1, delta=0.1).risk == pytest.approx(0.02)
    truth[:, :2] = -0.1  # outside [0, 1]: sets are clamped, so this is missed at every lambda
    assert calibrate(lower, upper, truth, alpha=0.1, delta=0.1, scaling="additive").risk == pytest.approx(0.02)


def test_grid_must_end_inside(faces):
    with pytest.raises(CalibrationError, match=r"top of the grid, lambda = 0.2.* no number of pixel values"):
        calibrate(*faces, lambda_grid=(0.1, 0.2, 10), **PAPER)
    with pytest.raises(CalibrationError, match="lower its start"):
        calibrate(*faces, lambda_grid=(3.0, 4.0, 10), **PAPER)
    for grid in [(1.0, 0.9, 10), (0.9, 1.3, 1), (math.nan, 1.0, 5)]:
        with pytest.raises(ConfigError, match="lambda_grid"):
            calibrate(*faces, lambda_grid=grid, **PAPER)


@pytest.mark.parametrize("key", ["alpha", "delta"])
@pytest.mark.parametrize("value", [0.0, 1.0, 1.5, -0.1, math.nan])
def test_level_out_of_range_is_named(faces, key, value):
    with pytest.raises(ConfigError, match=f"{key} = {value}"):
        calibrate(*faces, **{"alpha": 0.1, "delta": 0.1, key: value})


def test_bad_input_is_named(faces):
    lower, upper, target = faces
    guarantee = {"alpha": 0.3, "delta": 0.3}
    for wrong, error, message in [
        ({"mask": np.ones((60, 3, 5, 5))}, ShapeError, "mask"),
        ({"mask": np.zeros_like(target)}, DataError, "mask selects no pixel"),
        ({"groups": ["a"] * 59}, ShapeError, "groups"),
        ({"unit": "group"}, ConfigError, "needs groups"),
        ({"unit": "face"}, ConfigError, "unit = 'face'"),
        ({"ucb": "magic"}, ConfigError, "ucb = 'magic'"),
        ({"scaling": "magic"}, ConfigError, "scaling = 'magic'"),
    ]:
        with pytest.raises(error, match=message):
            calibrate(lower, upper, target, **guarantee, **wrong)
    with pytest.raises(ShapeError, match="upper"):
        calibrate(lower, upper[:5], target, **guarantee)
    with pytest.raises(ShapeError, match="at least one"):
        calibrate(lower[:0], upper[:0], target[:0], **guarantee)
    mask = np.ones_like(target)
    mask[3] = 0
    with pytest.raises(DataError, match="image 3"):
        calibrate(lower, upper, target, mask=mask, **guarantee)
    assert calibrate(lower, upper, target, mask=mask, unit="pixel", **{**guarantee, "ucb": "official"}).n == 59 * 300


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused_unless_masked(faces, bad):
    upper = faces[1].copy()
    upper[4, 1, 2, 3] = bad
    with pytest.raises(DataError, match="upper has 1 evaluated values that are NaN or infinite"):
        calibrate(faces[0], upper, faces[2], alpha=0.3, delta=0.3)
    mask = np.ones_like(upper)
    mask[4, 1, 2, 3] = 0
    assert calibrate(faces[0], upper, faces[2], mask=mask, alpha=0.3, delta=0.3).n == 60


def test_betting_on_pixels_is_for_small_sets_only(monkeypatch, faces):
    small = [array[:2, :1] for array in faces]
    found = calibrate(*small, alpha=0.3, delta=0.3, unit="pixel")
    assert (found.unit, found.n, found.n_images) == ("pixel", 200, 2)
    monkeypatch.setattr("conffusion.calibration.procedure._MAX_BETTING_PIXELS", 100)
    with pytest.raises(ConfigError, match="at most 100 pixel values, got 200"):
        calibrate(*small, alpha=0.3, delta=0.3, unit="pixel")


def test_arguments_are_not_written_to(faces):
    copies = [array.copy() for array in faces]
    calibrate(*faces, alpha=0.3, delta=0.3).apply(*faces[:2])
    assert all(np.array_equal(array, copy) for array, copy in zip(faces, copies, strict=True))


def test_library_exports_the_contract_without_torch():
    assert set(library.__all__) >= CONTRACT
    assert dataclasses.fields(Calibration)[0].name == "lambda_hat"
    rooms = "conffusion.evaluation.validity, conffusion.metrics, conffusion.bounds"
    code = f"import sys, {rooms}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_exact_search_takes_seconds_at_most_where_the_scan_took_minutes():
    generator = np.random.default_rng(0)
    target = generator.random((100, 3, 128, 128), dtype=np.float32)
    half = generator.random(target.shape, dtype=np.float32) * 0.2
    middle = target + half * generator.normal(size=(100, 1, 1, 1)).astype(np.float32)
    start = time.process_time()
    for guarantee in (PAPER, {"alpha": 0.1, "delta": 0.1}):
        calibrate(middle - half, middle + half, target, **guarantee)
    assert time.process_time() - start < 8.0
