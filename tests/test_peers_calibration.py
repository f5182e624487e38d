"""The restated procedures of peers compute what their own code computes, by the conformance fixtures."""

import numpy as np
import pytest
import torch

from benchmarks import peers_calibration as peers
from conffusion.losses import pinball_loss
from tests import calibration_fixtures, conformance
from tests.calibration_in_order import calibrate

IM2IM = conformance.load("stats/calibrate_im2im_uq")[0]
INTERVALS = conformance.load("stats/krcps_intervals")
PROCEDURES = conformance.load("stats/krcps_procedures")
KINDS = ["mse", "qr_additive", "qr_multiplicative", "conffusion_multiplicative", "conffusion_additive"]


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


def shifted_bounds(rule):
    """(lower, upper, prediction, target) of a K-RCPS fixture: the bounds of the right half are moved up."""
    arrays = conformance.synthetic_bounds(rule["seed"], rule["n"], 1, rule["h"], rule["w"], rule["spread"])
    lower, upper, target = (array[:, 0] for array in arrays)
    shift = np.where(np.arange(rule["w"]) >= rule["w"] // 2, rule["shift"], 0)
    lower, upper = (np.clip(array + shift, 0, 1).astype(np.float32) for array in (lower, upper))
    return tensors(lower, upper, (lower + upper) / 2, target)


def rcps_settings(case):
    return peers.RcpsSettings(case["uq"], case["epsilon"], case["delta"], case["stepsize"])


def official_cases():
    for name in ("sr", "inpainting"):
        description, _ = conformance.load(f"stats/calibrate_{name}")
        for index, case in enumerate(description["cases"]):
            yield pytest.param(case, description["lambda_grid"], name == "inpainting", id=f"{name}-{index}")


@pytest.mark.parametrize(("case", "grid", "masked"), list(official_cases()))
def test_official_scan_gives_the_official_lambda(case, grid, masked):
    bounds = calibration_fixtures.bounds(case)
    mask = calibration_fixtures.mask(case, bounds[2]) if masked else None
    limits = (grid["start"], grid["end"], grid["num"])
    scan = peers.official_scan(*tensors(*bounds), None if mask is None else torch.from_numpy(mask), limits, 0.1, 0.1)
    assert scan.lambda_hat.item() == pytest.approx(case["lambda_hat"], abs=1e-6)
    # Where the top of the grid fails or the grid ends, the official code is silent and ours is not.
    if case["calibrated"]["risk"] <= 0.1 and case["lambda_hat"] <= grid["end"] + 1e-6:
        guarantee = {"alpha": 0.1, "delta": 0.1, "ucb": "official", "unit": "pixel", "lambda_grid": limits}
        assert calibrate(*bounds, mask=mask, **guarantee).lambda_hat == pytest.approx(scan.lambda_hat.item(), abs=1e-6)


def im2im_data(case):
    lower, upper, target = calibration_fixtures.bounds(case)
    return tensors(lower, (lower + upper) / 2, upper, target)


@pytest.mark.parametrize("case", IM2IM["cases"], ids=lambda case: str(case["seed"]))
def test_im2im_uq_scan_and_metrics(case):
    arrays = im2im_data(case)
    grid = (case["lambda_min"], case["lambda_max"], case["num_lambdas"])
    scan = peers.im2im_uq_scan(*arrays, grid, case["alpha"], case["delta"])
    assert scan.lambda_hat.item() == pytest.approx(case["lambda_hat"], abs=1e-5)
    metrics = peers.im2im_uq_metrics(*arrays, case["lambda_hat"], case["metric_seed"])
    found = [metrics.risk, metrics.mean_sampled_size, metrics.spearman, metrics.sampled_mse, *metrics.stratified_risks]
    names = ["risk_at_lambda_hat", "mean_sampled_size", "spearman_residual_vs_size", "sampled_mse"]
    expected = [*(case[name] for name in names), *case["stratified_risks"]]
    assert np.allclose(found, expected, **IM2IM["tolerance"]["others_tol"])


def test_im2im_uq_intervals_are_never_narrower_than_their_least_reach():
    values = torch.rand((3, 2, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    low, high = peers.im2im_uq_sets(values[0], values[1], values[2], 0.0)
    assert torch.equal(low, values[1] - 1e-6)
    assert torch.equal(high, values[1] + 1e-6)


@pytest.mark.parametrize("weights", [(1, 1, 1), (0.5, 2.0, 3.0)])
def test_im2im_uq_loss_is_two_pinball_losses_and_a_squared_error(weights):
    description, _ = conformance.load("stats/im2im_uq_loss")
    prediction, target = tensors(*(conformance.make(description["inputs"][key]) for key in ("prediction", "target")))
    low, middle, high = prediction.unbind(dim=1)
    terms = pinball_loss(low, target, 0.05), pinball_loss(high, target, 0.95), (middle - target).square().mean()
    loss = sum(weight * term.item() for weight, term in zip(weights, terms, strict=True))
    assert loss == pytest.approx(description["values"][f"weights_{weights}"], rel=1e-5)


def check_intervals(name, bounds):
    description, arrays = INTERVALS
    for side, array in zip(("lower", "upper"), bounds, strict=True):
        assert conformance.max_diff(description, arrays, f"{name}_{side}", array.numpy()) <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lam", [0.05, 1.2])
def test_krcps_intervals_from_predictions(kind, lam):
    lower, upper, prediction, _ = shifted_bounds(INTERVALS[0]["data"])
    check_intervals(f"{kind}_{lam}", peers.krcps_intervals(kind, lower, upper, prediction, lam))


def test_krcps_intervals_from_samples():
    samples = torch.from_numpy(conformance.make(INTERVALS[0]["samples"]))
    check_intervals("std_0.03", peers.krcps_sampled_intervals("std", samples, 0.03))
    for kind, level in [("naive_sampling_additive", 0.1), ("calibrated_quantile", 0.1), ("calibrated_quantile", 0.2)]:
        check_intervals(f"{kind}_{level}_0.03", peers.krcps_sampled_intervals(kind, samples, 0.03, level))


def test_unknown_intervals_are_named():
    values = torch.zeros(1, 2, 2)
    with pytest.raises(ValueError, match="other"):
        peers.krcps_intervals("other", values, values, values, 1.0)
    with pytest.raises(ValueError, match="other"):
        peers.krcps_sampled_intervals("other", values, 1.0)


def check_calibrated(case, scale, images):
    lower, upper, prediction, target = (array[images] for array in shifted_bounds(case["data"]))
    low, high = peers.krcps_intervals(case["uq"], lower, upper, prediction, scale)
    risk = ((target < low) | (target > high)).float().mean().item()
    assert risk == pytest.approx(case["calibration_risk"], abs=1e-6)
    assert (high - low).mean().item() == pytest.approx(case["mean_interval_length"], abs=1e-5)


@pytest.mark.parametrize("case", PROCEDURES[0]["cases"][:2], ids=lambda case: case["uq"])
def test_rcps_of_krcps(case):
    scan = peers.krcps_rcps(*shifted_bounds(case["data"]), case["lambda_max"], rcps_settings(case))
    assert scan.lambda_hat.item() == pytest.approx(case["lambda_hat"], abs=1e-6)
    check_calibrated(case, scan.lambda_hat, slice(None))


def test_rcps_that_starts_too_low_is_refused():
    case = PROCEDURES[0]["cases"][0]
    with pytest.raises(ValueError, match="start higher"):
        peers.krcps_rcps(*shifted_bounds(case["data"]), 0.0, rcps_settings(case))


def krcps_settings(case):
    return peers.KrcpsSettings(
        rcps_settings(case),
        *(case[key] for key in ("lambda_max", "n_opt", "k", "membership", "prob_size", "gamma", "proc_seed")),
    )


@pytest.mark.parametrize("index", [2, 3])
def test_krcps(index):
    description, arrays = PROCEDURES
    case, tolerance = description["cases"][index], description["tolerance"]
    found = peers.krcps_k(*shifted_bounds(case["data"]), krcps_settings(case))
    assert np.array_equal(found.label, arrays[f"case{index}_groups"])
    assert np.allclose(found.objectives, case["objective_per_gamma"], **tolerance["objective_per_gamma"])
    assert np.allclose(found.offsets, case["lambda_k"], rtol=0, **tolerance["lambda_k"])
    scale = found.scan.lambda_hat
    assert np.allclose(scale.numpy(), arrays[f"case{index}_lambda_map"], rtol=0, **tolerance["lambda_map"])
    check_calibrated(case, scale, found.calibration_images)


def test_krcps_shares_its_groups_between_channels():
    case = PROCEDURES[0]["cases"][2]
    colour = [array.reshape(64, 2, *array.shape[1:]) for array in shifted_bounds(case["data"])]
    found = peers.krcps_k(*colour, krcps_settings({**case, "n_opt": 20}))
    assert found.scan.lambda_hat.shape == found.label.shape == (12, 12)
