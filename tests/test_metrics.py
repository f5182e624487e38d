import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import ConfigError, DataError, ShapeError
from conffusion.metrics import evaluate, image_losses, size_quartile_edges, stratified_counts
from tests import calibration_fixtures, conformance

KINDS = ["pixel", "image", "image_channel"]


@pytest.fixture(scope="module")
def photos():
    return conformance.synthetic_bounds(5, 12, 3, 9, 7, 0.7)


@pytest.mark.parametrize("name", ["sr", "inpainting", "g"])
def test_official_units_reproduce_the_official_metrics(name):
    description, _ = conformance.load(f"stats/calibrate_{name}")
    for case in description["cases"]:
        lower, upper, truth = calibration_fixtures.bounds(case)
        inpainting = name == "inpainting" or case.get("task") == "inpainting"
        mask = calibration_fixtures.mask(case, truth) if inpainting else None
        scale = np.float32(case["lambda_hat"])
        scaled = (lower / scale).clip(0, 1), (upper * scale).clip(0, 1)
        for state, bounds in [("uncalibrated", (lower, upper)), ("calibrated", scaled)]:
            found = evaluate(*bounds, truth, mask, stratify="image" if inpainting else "image_channel")
            expected = case[state]
            ours = [found.risk, found.interval_size_mean, found.interval_size_median, *found.stratified_risk]
            theirs = [expected["risk"], expected["size_mean"], expected["size_median"], *expected["stratified_risks"]]
            assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-6), (case["seed"], state)


def brute_force(lower, upper, target, chosen):
    sizes = (upper - lower)[chosen].astype(np.float64)
    missed = ~((lower <= target) & (target <= upper))[chosen]
    edges = np.quantile(sizes, [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, sizes, side="left")
    risks = [missed[quarter == k].mean() if (quarter == k).any() else np.nan for k in range(4)]
    return missed.mean(), sizes.mean(), np.median(sizes), risks, edges


images = npst.arrays(np.float32, (3, 4, 2, 3, 3), elements=st.floats(-0.25, 1.0, width=32))


@given(values=images, shades=st.sampled_from([None, 4]), masked=st.booleans())
def test_pixel_metrics_equal_brute_force(values, shades, masked):
    lower, upper, target = np.rint(values * shades).astype(np.float32) / shades if shades else values
    chosen = np.random.default_rng(0).random(target.shape) < (0.5 if masked else 1.0)
    risk, size, median, risks, edges = brute_force(lower, upper, target, chosen)
    found = evaluate(lower, upper, target, chosen if masked else None)
    assert found.risk == pytest.approx(risk)
    assert found.interval_size_mean == pytest.approx(size, abs=1e-6)
    assert found.interval_size_median == pytest.approx(median, abs=1e-12)
    assert np.allclose(size_quartile_edges(LabelledBounds(lower, upper, target, chosen)), edges, rtol=0, atol=1e-12)
    assert np.allclose(found.stratified_risk, risks, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_zarr_and_torch_give_what_numpy_gives(photos, kind, tmp_path, monkeypatch):
    mask = (np.random.default_rng(0).random(photos[0].shape) < 0.5).astype(np.float32)
    expected = evaluate(*photos, mask, stratify=kind)
    stored = []
    for index, array in enumerate([*photos, mask]):
        stored.append(zarr.create_array(tmp_path / f"{index}", shape=array.shape, dtype="f4", chunks=(5, 3, 4, 7)))
        stored[-1][:] = array
    monkeypatch.setattr(zarr.Array, "__array__", lambda *_, **__: pytest.fail("read whole"))
    monkeypatch.setattr("conffusion.core.labelled_bounds._READ_PIXELS", 500)
    for arrays in (stored, [torch.from_numpy(array) for array in (*photos, mask)]):
        found = evaluate(*arrays, stratify=kind)
        assert (found.risk, found.interval_size_median) == (expected.risk, expected.interval_size_median)
        assert found.interval_size_mean == pytest.approx(expected.interval_size_mean, rel=1e-12)
        assert np.allclose(found.stratified_risk, expected.stratified_risk, rtol=1e-12)


def test_tables_per_image_add_up(photos):
    mask = np.random.default_rng(1).random(photos[0].shape) < 0.6
    whole = evaluate(*photos, mask)
    images = LabelledBounds(*photos, mask)
    misses, pixels = stratified_counts(images, size_quartile_edges(images))
    assert misses.shape == pixels.shape == (12, 4)
    assert np.allclose(misses.sum(axis=0) / pixels.sum(axis=0), whole.stratified_risk)
    assert pixels.sum() == mask.sum()
    risk, size = image_losses(*photos, mask)
    counts = mask.reshape(12, -1).sum(axis=1)
    assert risk @ counts / counts.sum() == pytest.approx(whole.risk)
    assert size @ counts / counts.sum() == pytest.approx(whole.interval_size_mean)
    by_image = evaluate(*photos, mask, stratify="image")
    assert (by_image.risk, by_image.interval_size_mean) == (pytest.approx(risk.mean()), pytest.approx(size.mean()))


def test_image_without_evaluated_pixels_is_left_out(photos):
    mask = np.ones(photos[0].shape)
    mask[4] = 0
    rest = [np.delete(array, 4, axis=0) for array in photos]
    for kind in KINDS:
        ours, theirs = evaluate(*photos, mask, stratify=kind), evaluate(*rest, stratify=kind)
        assert ours.risk == pytest.approx(theirs.risk)
        assert np.allclose(ours.stratified_risk, theirs.stratified_risk)
    assert np.isnan(image_losses(*photos, mask)[0]).tolist() == [index == 4 for index in range(12)]


def test_crossed_and_equal_sizes():
    lower, upper, target = np.full((3, 4, 1, 2, 2), 0.5)
    found = evaluate(lower, upper - 0.25, target)
    assert (found.risk, found.interval_size_mean, found.interval_size_median) == (1.0, -0.25, -0.25)
    assert found.stratified_risk[0] == 1.0
    assert np.isnan(found.stratified_risk[1:]).all()
    assert evaluate(lower, upper, target, stratify="image").stratified_risk.tolist() == [0.0] * 4


def test_mask_with_one_channel(photos):
    mask = np.random.default_rng(1).random((12, 1, 9, 7)) < 0.6
    whole = np.broadcast_to(mask, photos[0].shape)
    assert evaluate(*photos, mask).risk == evaluate(*photos, whole).risk


def test_bad_input(photos):
    lower, upper, target = photos
    with pytest.raises(ConfigError, match="stratify = 'row'"):
        evaluate(*photos, stratify="row")
    with pytest.raises(ShapeError, match="mask"):
        evaluate(*photos, np.ones((12, 3, 4, 4)))
    with pytest.raises(ShapeError, match="upper"):
        evaluate(lower, upper[:3], target)
    with pytest.raises(ShapeError, match="at least one"):
        evaluate(lower[:0], upper[:0], target[:0])
    for kind in KINDS:
        with pytest.raises(DataError, match="selects no pixel"):
            evaluate(*photos, np.zeros_like(target), stratify=kind)
    broken = target.copy()
    broken[5, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        evaluate(lower, upper, broken)
    mask = np.ones_like(target)
    mask[5, 0, 0, 0] = 0
    assert 0 <= evaluate(lower, upper, broken, mask).risk <= 1
