import math

import numpy as np
import pytest
import torch
import zarr

from conffusion.calibration import Family, choose_family, fit_family
from conffusion.calibration import fitting as fitting_module
from conffusion.calibration.fitting import image_weights
from conffusion.calibration.risk_bounds import BOUNDS, Level
from conffusion.core.choices import FAMILIES
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import CalibrationError, ConfigError, DataError, ShapeError
from tests import synthetic_families
from tests.calibration_in_order import attainable_risk, calibrate

LEVEL = 0.15


@pytest.fixture
def quick(monkeypatch):
    """Fits of short steps."""
    monkeypatch.setattr("conffusion.calibration.learned._STEPS", 80)
    monkeypatch.setattr("conffusion.calibration.learned._BATCH", 1024)


def even_errors(n_images, seed=0):
    """Bounds of any width around truths whose errors are all of one size: a common offset is the best there is."""
    generator = np.random.default_rng(seed)
    middle = generator.uniform(0.3, 0.7, (n_images, 1, 8, 8))
    half = generator.uniform(0.0, 0.04, middle.shape)
    target = middle + generator.choice([-1.0, 1.0], middle.shape) * (half + 0.05 + 0.001 * generator.random(half.shape))
    return [array.astype(np.float32) for array in (middle - half, middle + half, target)]


def test_best_family_of_simulated_images_is_chosen(quick):
    """Errors proportional to a width that only the neighbourhood tells, or all errors of one size."""
    names = ["multiplicative", "additive", "interval", "learned"]
    family, sizes = choose_family(names, LabelledBounds(*synthetic_families.images(40)), level=LEVEL)
    assert family.name == "learned"
    assert list(sizes) == names
    assert sizes["learned"] < 0.95 * min(sizes[name] for name in names[:3])
    family, sizes = choose_family(names[:3], LabelledBounds(*even_errors(20)), level=LEVEL)
    assert family.name == "additive"
    assert sizes["additive"] < 0.8 * sizes["interval"]
    assert family.shape is None


def test_size_of_a_plain_family_is_the_mean_over_halves(quick):
    lower, upper, target = synthetic_families.images(10)
    _, sizes = choose_family(["additive", "interval"], LabelledBounds(lower, upper, target), level=LEVEL, seed=5)
    expected = []
    for _, part in fitting_module._folds(LabelledBounds(lower, upper, target), 5):
        low, high, truth = (array.astype(np.float64) for array in (part.lower, part.upper, part.target))
        assert len(low) == 5
        critical = np.sort(np.maximum(low - truth, truth - high), axis=None)
        offset = critical[math.ceil((1 - LEVEL) * critical.size - 1e-6) - 1]
        assert (critical > offset).mean() <= LEVEL < (critical >= offset).mean() + 1e-12
        expected.append(((high + offset).clip(0, 1) - (low - offset).clip(0, 1)).mean())
    assert sizes["additive"] == pytest.approx(np.mean(expected), rel=1e-6)


def test_single_candidate_is_not_compared(quick):
    arrays = synthetic_families.images(1)
    for name in FAMILIES:
        family, sizes = choose_family([name], LabelledBounds(*arrays), level=LEVEL)
        assert (family.name, sizes) == (name, {})
    with pytest.raises(DataError, match="at least 2"):
        choose_family(["additive", "interval"], LabelledBounds(*arrays), level=LEVEL)


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_divided_between_halves(seed):
    labels = np.array([f"person {k}" for k in np.random.default_rng(seed).integers(0, 7, 40)])
    images = LabelledBounds(*synthetic_families.images(40, (1, 2, 2)), groups=labels)
    folds, n_groups = fitting_module._folds(images, seed), len(set(labels.tolist()))
    for rest, part in folds:
        assert not set(rest.groups.tolist()) & set(part.groups.tolist())
        assert len(rest.groups) + len(part.groups) == 40
        assert len(set(part.groups.tolist())) in (n_groups // 2, n_groups - n_groups // 2)
    assert sorted(np.concatenate([part.groups for _, part in folds]).tolist()) == sorted(labels.tolist())
    one = LabelledBounds(*synthetic_families.images(40, (1, 2, 2)), groups=["same"] * 40)
    with pytest.raises(DataError, match="1 image or group"):
        fitting_module._folds(one, seed)


def test_groups_weigh_the_same(quick):
    """Copies of an image, in one group, change neither what is chosen nor the sizes."""
    arrays, groups = synthetic_families.images(12), np.arange(12) // 2
    copies = np.concatenate([np.arange(12), [0, 1, 0, 1]])
    names = ["additive", "interval"]
    _, sizes = choose_family(names, LabelledBounds(*arrays, groups=groups), level=LEVEL)
    _, again = choose_family(
        names, LabelledBounds(*(array[copies] for array in arrays), groups=groups[copies]), level=LEVEL
    )
    assert again == pytest.approx(sizes, rel=1e-9)
    _, other = choose_family(names, LabelledBounds(*arrays, groups=groups % 3), level=LEVEL)
    assert other != pytest.approx(sizes, rel=1e-4)


def test_mask_of_one_channel_is_that_of_all(quick):
    arrays = synthetic_families.images(10)
    mask = np.random.default_rng(0).random((10, 1, 8, 8)) < 0.5
    names = ["additive", "pixel_groups", "learned"]
    family, sizes = choose_family(names, LabelledBounds(*arrays, mask=mask), level=LEVEL)
    same, equal = choose_family(names, LabelledBounds(*arrays, mask=np.repeat(mask, 3, axis=1)), level=LEVEL)
    assert equal == pytest.approx(sizes, rel=1e-12)
    assert same.to_dict() == family.to_dict()
    assert choose_family(names, LabelledBounds(*arrays), level=LEVEL)[1] != pytest.approx(sizes, rel=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_torch_and_zarr_are_fitted_as_numpy_is(quick, name, tmp_path):
    arrays, groups = synthetic_families.images(12), np.arange(12) // 2
    stored = []
    for index, array in enumerate(arrays):
        stored.append(zarr.create_array(tmp_path / f"{index}", shape=array.shape, dtype="f4", chunks=(5, 3, 8, 8)))
        stored[-1][:] = array
    expected = fit_family(name, LabelledBounds(*arrays, groups=groups), level=LEVEL).to_dict()
    assert fit_family(name, LabelledBounds(*stored, groups=groups.tolist()), level=LEVEL).to_dict() == expected
    tensors = [torch.from_numpy(array) for array in arrays]
    assert (
        fit_family(name, LabelledBounds(*tensors, groups=torch.from_numpy(groups)), level=LEVEL).to_dict() == expected
    )


def test_a_family_that_cannot_reach_the_level_has_no_finite_size():
    lower, upper, target = synthetic_families.images(10)
    target[:, :, :2] = 0.0  # never covered by [l / lambda, lambda u] with l > 0
    family, sizes = choose_family(["multiplicative", "additive"], LabelledBounds(lower, upper, target), level=LEVEL)
    assert (family.name, sizes["multiplicative"]) == ("additive", math.inf)
    target[:, :, :2] = 1.5  # and this by none
    family, sizes = choose_family(
        ["additive", "pixel_groups", "interval"], LabelledBounds(lower, upper, target), level=LEVEL
    )
    assert (family.name, set(sizes.values())) == ("additive", {math.inf})
    with pytest.raises(CalibrationError, match="no offsets reach"):
        fit_family("pixel_groups", LabelledBounds(lower, upper, target), level=LEVEL)


def test_chosen_family_calibrates_other_images(quick):
    family, _ = choose_family(["interval", "learned"], LabelledBounds(*synthetic_families.images(40)), level=LEVEL)
    others = synthetic_families.images(80, seed=1)
    promise = {"alpha": 0.2, "delta": 0.1, "ucb": "star"}
    found, plain = (calibrate(*others, scaling=scaling, **promise) for scaling in (family, "interval"))
    sizes = [np.subtract(*reversed(each.apply(*others[:2]))).mean() for each in (found, plain)]
    assert sizes[0] < sizes[1]


def test_bad_requests_are_named_before_anything_is_fitted(monkeypatch):
    monkeypatch.setattr(fitting_module, "fit_learned_scale", lambda *_, **__: pytest.fail("fitted"))
    arrays, mask = synthetic_families.images(4), np.ones((4, 1, 8, 8))
    with pytest.raises(ConfigError, match="scaling = 'magic'"):
        choose_family(["learned", "magic"], LabelledBounds(*arrays), level=LEVEL)
    with pytest.raises(ConfigError, match="names is empty"):
        choose_family([], LabelledBounds(*arrays), level=LEVEL)
    for names in (["learned"], ["learned", "additive"]):
        for level in (0.0, 1.0, math.nan):
            with pytest.raises(ConfigError, match="level = "):
                choose_family(names, LabelledBounds(*arrays), level=level)
        with pytest.raises(ShapeError, match="upper has shape"):
            choose_family(names, LabelledBounds(arrays[0], arrays[1][:2], arrays[2]), level=LEVEL)
        with pytest.raises(ShapeError, match="mask has shape"):
            choose_family(names, LabelledBounds(*arrays, mask=mask[:, :, :4]), level=LEVEL)
        with pytest.raises(ShapeError, match="groups has shape"):
            choose_family(names, LabelledBounds(*arrays, groups=[1, 2]), level=LEVEL)
    mask[3] = 0
    for name in FAMILIES:
        with pytest.raises(DataError, match="no pixel in image 3"):
            fit_family(name, LabelledBounds(*arrays, mask=mask), level=LEVEL)
    with pytest.raises(DataError, match="no pixel in image 3"):
        choose_family(["additive", "interval"], LabelledBounds(*arrays, mask=mask), level=LEVEL)
    with pytest.raises(ConfigError, match="scaling = 'magic'"):
        fit_family("magic", LabelledBounds(*arrays), level=LEVEL)


def test_plain_scaling_needs_no_fit():
    family = fit_family("interval", LabelledBounds(*synthetic_families.images(2)), level=LEVEL)
    assert isinstance(family, Family)
    assert (family.name, family.shape) == ("interval", None)


@pytest.mark.parametrize("ucb", ["star", "hoeffding_bentkus"])
@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_attainable_risk_just_passes(ucb, scale):
    """Whatever the scale at which the losses are given."""
    losses = scale * np.random.default_rng(0).beta(9, 91, 200)
    asked, bound = Level(0.1, 0.1, 200), BOUNDS[ucb]
    risk = attainable_risk(losses, n=asked.n, alpha=asked.alpha, delta=asked.delta, ucb=ucb)
    assert 0 < risk < 0.1
    factor = risk / losses.mean()
    assert bound.would_pass(losses * factor * (1 - 1e-9), asked)
    assert not bound.would_pass(losses * factor * (1 + 1e-6), asked)


def test_attainable_risk_comes_closer_to_alpha_with_more_units():
    losses = np.random.default_rng(0).beta(9, 91, 200)
    risks = [attainable_risk(losses, n=n, alpha=0.1, delta=0.1, ucb="star") for n in (50, 200, 2000)]
    assert risks == sorted(set(risks))


def test_attainable_risk_never_makes_losses_exceed_one():
    losses = np.r_[np.ones(10), np.zeros(190)] * 0.5
    risk = attainable_risk(losses, n=200, alpha=0.5, delta=0.1, ucb="star")
    assert risk == pytest.approx(0.05, rel=1e-5)


def test_attainable_risk_where_nothing_passes_is_half_of_alpha():
    assert attainable_risk(np.full(5, 0.1), n=5, alpha=0.1, delta=0.1) == 0.05
    assert attainable_risk(np.zeros(200), n=200, alpha=0.1, delta=0.1) == 0.05


def test_image_weights():
    assert np.array_equal(image_weights(None, 4), [0.25] * 4)
    weights = image_weights(["a", "b", "a", "a", "c", "c"], 6)
    assert weights == pytest.approx(np.array([1 / 9, 1 / 3, 1 / 9, 1 / 9, 1 / 6, 1 / 6]))
    with pytest.raises(ShapeError, match="one label for each"):
        image_weights(["a"], 2)
