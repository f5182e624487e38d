import math
import re

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from conffusion import calibration
from conffusion.calibration import (
    bentkus_ucb,
    critical_lambda,
    empirical_bernstein_ucb,
    hoeffding_bentkus_ucb,
    hoeffding_ucb,
    wsr_ucb,
)
from conffusion.calibration.families import Family
from conffusion.calibration.guarantees import EveryGroup, ImageQuantile, MeanRisk, WidestQuarter
from conffusion.calibration.krcps import PixelGroups
from conffusion.calibration.units import group_index
from conffusion.errors import CalibrationError, ConfigError, DataError, ShapeError
from tests.calibration_in_order import calibrate, calibrate_guarantees, learn_then_test

SCALINGS = ["multiplicative", "additive", "interval"]
UCBS = {
    "wsr": wsr_ucb,
    "empirical_bernstein": empirical_bernstein_ucb,
    "hoeffding_bentkus": lambda losses, delta: hoeffding_bentkus_ucb(losses.mean(), len(losses), delta),
    "bentkus": lambda losses, delta: bentkus_ucb(losses.mean(), len(losses), delta),
    "hoeffding": lambda losses, delta: hoeffding_ucb(losses.mean(), len(losses), delta),
}
ALL = [MeanRisk(0.3), WidestQuarter(0.35), EveryGroup(0.4), ImageQuantile(0.4, 0.35)]


def make_images(seed, n=60, shades=None, shape=(2, 3, 4)):
    """(lower, upper, target) whose errors share a factor within each image; `shades` makes ties."""
    generator = np.random.default_rng(seed)
    target = generator.uniform(0.2, 0.8, (n, *shape))
    half = generator.uniform(0.02, 0.2, target.shape)
    middle = target + half * generator.normal(size=target.shape) * generator.uniform(0.2, 1.4, (n, 1, 1, 1))
    arrays = [np.clip(part, 0, 1) for part in (middle - half, middle + half, target)]
    return [np.rint(part * shades) / shades if shades else part for part in arrays]


@pytest.fixture(scope="module")
def images():
    return make_images(0)


def clopper_pearson(losses, delta):
    return stats.binomtest(int(losses.sum()), len(losses), alternative="less").proportion_ci(1 - delta).high


def in_quarter(sizes, chosen, quarter):
    """Mask of the quarter, by a stable sort of each image's evaluated pixels."""
    mask = np.zeros_like(chosen)
    for size, within, out in zip(sizes, chosen, mask, strict=True):
        places = np.flatnonzero(within)
        order = places[np.argsort(size.reshape(-1)[places], kind="stable")]
        out.reshape(-1)[order[(quarter - 1) * len(order) // 4 : quarter * len(order) // 4]] = True
    return mask


def unit_means(losses, groups):
    if groups is None:
        return losses
    index = group_index(groups, len(losses))
    return np.array([losses[index == k].mean() for k in range(index.max() + 1)])


def smallest_scale(critical, loss, bound, alpha, delta):
    """(lambda_hat, risk) by trying every critical value from the top down, or None."""
    best = None
    for scale in np.unique(critical[critical < np.inf])[::-1]:
        losses = loss(critical > scale)
        if bound(losses, delta) > alpha + 1e-12:
            break
        best = scale, losses.mean()
    return best


def brute_force(promise, arrays, chosen, groups, labels, options):
    """One (lambda_hat, risk) or None for each part of a promise."""
    critical, bound, delta = critical_lambda(*arrays, options["scaling"]), UCBS[options["ucb"]], options["delta"]

    def share(missed, mask):
        return (missed & mask).reshape(len(mask), -1).sum(1) / mask.reshape(len(mask), -1).sum(1)

    if isinstance(promise, ImageQuantile):
        if groups is None or len(set(groups.tolist())) == len(groups):
            bound = clopper_pearson
        return [
            smallest_scale(
                np.where(chosen, critical, np.inf),
                lambda missed: unit_means((share(missed, chosen) > promise.pixel_share).astype(float), groups),
                bound, promise.image_share, delta,
            )
        ]  # fmt: skip
    if isinstance(promise, WidestQuarter):
        chosen = in_quarter(arrays[1] - arrays[0], chosen, promise.quarter)
    rows, found = [np.full(len(chosen), True)], []
    if isinstance(promise, EveryGroup):
        rows = [labels == label for label in dict.fromkeys(labels.tolist())]
    for row in rows:
        within = None if groups is None else groups[row]
        found.append(
            smallest_scale(
                np.where(chosen, critical, np.inf)[row],
                lambda missed, row=row, within=within: unit_means(share(missed, chosen[row]), within),
                bound, promise.alpha, delta / len(rows),
            )
        )  # fmt: skip
    return found


@settings(max_examples=250)
@given(
    seed=st.integers(0, 2**32 - 1),
    shades=st.sampled_from([None, 4, 20]),
    kind=st.sampled_from([MeanRisk, WidestQuarter, EveryGroup, ImageQuantile]),
    scaling=st.sampled_from(SCALINGS),
    ucb=st.sampled_from(sorted(UCBS)),
    alpha=st.sampled_from([0.3, 0.5, 0.7]),
    grouping=st.sampled_from(["none", "many", "few"]),
)
def test_each_promise_equals_brute_force(seed, shades, kind, scaling, ucb, alpha, grouping):
    generator = np.random.default_rng(seed)
    arrays = make_images(seed, int(generator.integers(4, 40)), shades, (2, 2, int(generator.integers(1, 4))))
    n = len(arrays[0])
    chosen = generator.random(arrays[0].shape) < 0.7
    chosen[:, :, :, 0] = True
    n_groups = {"none": 0, "many": n, "few": max(2, n // 2)}[grouping]
    groups = generator.permutation(n) % n_groups if n_groups else None
    labels = np.array(["Siemens", "GE"])[generator.integers(0, 2, n)]
    promise = kind(0.3, alpha) if kind is ImageQuantile else kind(alpha)
    if kind is WidestQuarter:
        promise = WidestQuarter(alpha, int(generator.integers(1, 5)))
    options = {"scaling": scaling, "ucb": ucb, "delta": 0.4}
    expected = brute_force(promise, arrays, chosen, groups, labels, options)
    if None in expected:
        with pytest.raises(CalibrationError, match=re.escape(repr(promise))):
            calibrate_guarantees(*arrays, [promise], mask=chosen, groups=groups, labels=labels, **options)
        return
    found = calibrate_guarantees(*arrays, [promise], mask=chosen, groups=groups, labels=labels, **options)
    assert [part.lambda_hat for part in found.parts] == [scale for scale, _ in expected]
    assert [part.risk for part in found.parts] == pytest.approx([risk for _, risk in expected], abs=1e-12)
    assert found.lambda_hat == max(scale for scale, _ in expected)
    for part in found.parts:
        assert part.risk_ucb <= part.alpha + 1e-12
        assert part.unit == ("image" if groups is None else "group")


def test_parts_are_what_calibrate_gives_on_their_pixels_and_images(images):
    labels, groups = np.arange(60) % 2, np.arange(60) // 3
    options = {"groups": groups, "scaling": "additive"}
    found = calibrate_guarantees(*images, ALL[:3], delta=0.3, labels=labels, **options)
    quarter = in_quarter(images[1] - images[0], np.ones(images[0].shape, bool), 4)
    delta = 0.3 / 3
    expected = [calibrate(*images, alpha=0.3, delta=delta, **options)]
    expected.append(calibrate(*images, alpha=0.35, delta=delta, mask=quarter, **options))
    for label in (0, 1):
        part = [array[labels == label] for array in images]
        options["groups"] = groups[labels == label]
        expected.append(calibrate(*part, alpha=0.4, delta=delta / 2, **options))
    for part, single in zip(found.parts, expected, strict=True):
        for name in ("lambda_hat", "risk", "risk_ucb", "alpha", "delta", "n", "unit", "ucb"):
            assert getattr(part, name) == getattr(single, name)
    assert [part.name for part in found.parts] == [
        "MeanRisk(alpha=0.3)",
        "WidestQuarter(alpha=0.35, quarter=4)",
        "EveryGroup(alpha=0.4) label 0",
        "EveryGroup(alpha=0.4) label 1",
    ]
    assert found.lambda_hat == max(part.lambda_hat for part in found.parts)


def test_apply_keeps_every_promise_on_the_calibration_images(images):
    labels = np.arange(60) % 2
    found = calibrate_guarantees(*images, ALL, delta=0.3, labels=labels)
    assert (found.n_images, found.split, found.ucb, len(found.parts)) == (60, "bonferroni", "wsr", 5)
    low, high = found.apply(*images[:2])
    missed = ((images[2] < low) | (images[2] > high)).reshape(60, -1)
    quarter = in_quarter(images[1] - images[0], np.ones(images[0].shape, bool), 4).reshape(60, -1)
    risks = [missed.mean(), missed[quarter].mean(), *(missed[labels == k].mean() for k in (0, 1))]
    risks.append((missed.mean(axis=1) > 0.4).mean())
    assert all(risk <= part.risk + 1e-12 for risk, part in zip(risks, found.parts, strict=True))
    single = calibrate_guarantees(*images, [MeanRisk(0.3)], delta=0.3)
    once = calibrate(*images, alpha=0.3, delta=0.3)
    assert all(np.array_equal(*pair) for pair in zip(single.apply(*images[:2]), once.apply(*images[:2]), strict=True))
    tensors = [torch.from_numpy(array) for array in images]
    assert torch.is_tensor(found.apply(*tensors[:2])[0])


def test_family_with_a_shape_is_additive_on_reshaped_bounds(images):
    offsets = PixelGroups(np.arange(24).reshape(2, 3, 4) % 3, np.array([-0.02, 0.0, 0.05]))
    reshaped = offsets.apply(*images[:2])
    promises, options = [ALL[0], *ALL[2:]], {"delta": 0.3, "labels": np.arange(60) % 2}
    found = calibrate_guarantees(*images, promises, scaling=Family("pixel_groups", offsets), **options)
    expected = calibrate_guarantees(*reshaped, images[2], promises, scaling="additive", **options)
    assert found.parts == expected.parts
    ends = zip(found.apply(*images[:2]), expected.apply(*reshaped), strict=True)
    assert all(np.array_equal(*pair) for pair in ends)


def test_quarters_split_the_pixels_and_ties_go_by_position():
    target = np.full((30, 1, 1, 10), 0.125)
    for quarter, places in [(1, (0, 1)), (2, (2, 3, 4)), (3, (5, 6)), (4, (7, 8, 9))]:
        distance = np.full(target.shape, 0.25)
        distance[:, 0, 0, places] = 0.5
        arrays = [target + distance, target + distance + 0.25, target]  # all of one size
        scale = {}
        for other in (1, 2, 3, 4):
            found = calibrate_guarantees(*arrays, [WidestQuarter(0.3, other)], delta=0.3, scaling="additive")
            scale[other] = found.lambda_hat
        assert scale == {other: 0.5 if other == quarter else 0.25 for other in (1, 2, 3, 4)}


def test_quarters_are_ranked_by_uncalibrated_size_within_the_image():
    target = np.full((30, 1, 1, 8), 0.125)
    distance = np.full(target.shape, 0.25)
    size = np.linspace(0.1, 0.5, 8)[::-1] * np.linspace(0.1, 1.0, 30).reshape(30, 1, 1, 1)
    distance[..., :2] = 0.5  # the first two are the widest of their image, though not of all images
    arrays = [target + distance, target + distance + size, target]
    for quarter, scale in [(4, 0.5), (3, 0.25), (1, 0.25)]:
        found = calibrate_guarantees(*arrays, [WidestQuarter(0.3, quarter)], delta=0.3, scaling="additive")
        assert (found.lambda_hat, found.parts[0].risk) == (scale, 0.0)


def test_zarr_and_torch_give_what_numpy_gives(images, tmp_path, monkeypatch):
    mask = (np.random.default_rng(0).random((60, 1, 3, 4)) < 0.8).astype(np.uint8)
    options = {"delta": 0.5, "labels": np.arange(60) % 2, "groups": np.arange(60) // 2}
    promises = [MeanRisk(0.3), WidestQuarter(0.4, 3), EveryGroup(0.5), ImageQuantile(0.5, 0.5)]
    expected = calibrate_guarantees(*images, promises, mask=mask, **options)
    stored = []
    for index, array in enumerate([*images, mask]):
        chunks = (7, *array.shape[1:])
        stored.append(zarr.create_array(tmp_path / f"{index}", shape=array.shape, dtype=array.dtype, chunks=chunks))
        stored[-1][:] = array
    tensors = [torch.from_numpy(array) for array in (*images, mask)]
    assert calibrate_guarantees(*tensors[:3], promises, mask=tensors[3], **options) == expected
    monkeypatch.setattr("conffusion.core.labelled_bounds._READ_PIXELS", 100)
    monkeypatch.setattr(zarr.Array, "__array__", lambda *_, **__: pytest.fail("read whole"))
    assert calibrate_guarantees(*stored[:3], promises, mask=stored[3], **options) == expected


def lambda_hat(images, promises, ucb="hoeffding_bentkus", **options):
    """inf where nothing keeps the promises."""
    options = {"labels": np.arange(60) % 2, "delta": 0.2, "ucb": ucb, **options}
    try:
        return calibrate_guarantees(*images, promises, **options).lambda_hat
    except CalibrationError:
        return math.inf


@settings(max_examples=25)
@given(
    levels=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)), shares=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9))
)
def test_stricter_promises_never_need_smaller_scales(images, levels, shares):
    low, high = sorted(levels)
    for kind in (MeanRisk, WidestQuarter, EveryGroup):
        for ucb in ("wsr", "hoeffding_bentkus"):
            assert lambda_hat(images, [kind(low)], ucb) >= lambda_hat(images, [kind(high)], ucb)
        assert lambda_hat(images, [kind(0.3)], delta=low) >= lambda_hat(images, [kind(0.3)], delta=high)
    few, many = sorted(shares)
    assert lambda_hat(images, [ImageQuantile(few, low)]) >= lambda_hat(images, [ImageQuantile(many, high)])


@settings(max_examples=40)
@given(kept=st.lists(st.sampled_from(ALL), min_size=1, max_size=3, unique=True))
def test_more_promises_never_need_smaller_scales(images, kept):
    everything, some = lambda_hat(images, ALL), lambda_hat(images, kept)
    assert everything >= some
    assert some >= lambda_hat(images, kept, split="none")
    assert lambda_hat(images, kept, split="none") == max(lambda_hat(images, [promise]) for promise in kept) or any(
        isinstance(promise, EveryGroup) for promise in kept
    )


def test_without_a_split_every_part_gets_delta(images):
    found = calibrate_guarantees(*images, ALL, delta=0.2, labels=np.arange(60) % 2, split="none")
    assert [part.delta for part in found.parts] == [0.2] * 5
    divided = calibrate_guarantees(*images, ALL, delta=0.2, labels=np.arange(60) % 2)
    assert [part.delta for part in divided.parts] == pytest.approx([0.05, 0.05, 0.025, 0.025, 0.05])


# Monte Carlo: pixel k of an image of hardness e has critical value 0.01 e d REACH[k], with e exponential and d the
# factor of the image's label, so every true risk has a closed form.
REACH = np.linspace(0.2, 2.0, 12)
FACTORS = np.array([0.6, 1.0, 1.3])
N_DRAWS = 400


def draw(generator, n):
    """(bounds and truth, labels) of n images for the additive family; wider intervals miss more."""
    labels = generator.integers(0, 3, n)
    hardness = 0.01 * generator.exponential(1.0, n) * FACTORS[labels]
    place = generator.permuted(np.tile(np.arange(12), (n, 1)), axis=1)
    target = np.zeros((n, 12))
    lower = hardness[:, None] * REACH[place]
    return (lower, lower + 0.1 + 0.02 * place, target), labels


def true_risk(promise, scale):
    """The largest true risk among the parts of a promise, and its level."""
    if isinstance(promise, ImageQuantile):
        allowed = math.floor(promise.pixel_share * 12 + 1e-9)
        reach = np.sort(REACH)[12 - 1 - allowed]
        return np.exp(-100 * scale / (FACTORS * reach)).mean(), promise.image_share
    reach = REACH[3 * (promise.quarter - 1) :][:3] if isinstance(promise, WidestQuarter) else REACH
    of_label = np.exp(-100 * scale / np.multiply.outer(FACTORS, reach)).mean(axis=1)
    return of_label.max() if isinstance(promise, EveryGroup) else of_label.mean(), promise.alpha


@pytest.mark.parametrize(
    ("promises", "ucb", "split"),
    [
        ([WidestQuarter(0.2)], "wsr", "bonferroni"),
        ([WidestQuarter(0.2, 1)], "hoeffding_bentkus", "bonferroni"),
        ([EveryGroup(0.3)], "wsr", "bonferroni"),
        ([EveryGroup(0.3)], "wsr", "none"),
        ([ImageQuantile(0.1, 0.2)], "wsr", "bonferroni"),
        ([WidestQuarter(0.2), ImageQuantile(0.25, 0.15)], "wsr", "bonferroni"),
        ([WidestQuarter(0.2), ImageQuantile(0.25, 0.15), EveryGroup(0.3)], "wsr", "none"),
    ],
)
def test_promises_hold_on_fresh_images(promises, ucb, split):
    delta = 0.2
    generator = np.random.default_rng(11)
    violations = 0
    for _ in range(N_DRAWS):
        arrays, labels = draw(generator, 75)
        found = calibrate_guarantees(
            *arrays, promises, delta=delta, labels=labels, scaling="additive", ucb=ucb, split=split
        )
        risks = [true_risk(promise, found.lambda_hat) for promise in promises]
        violations += any(risk > alpha for risk, alpha in risks)
    rate = violations / N_DRAWS
    assert rate <= delta + 3 * math.sqrt(delta * (1 - delta) / N_DRAWS)
    if isinstance(promises[0], ImageQuantile):  # the exact bound is not needlessly wide
        assert rate >= 0.05


def test_own_scale_of_every_label_holds_at_once():
    delta = 0.2
    generator = np.random.default_rng(12)
    violations = 0
    for _ in range(N_DRAWS):
        arrays, labels = draw(generator, 75)
        found = calibrate_guarantees(*arrays, [EveryGroup(0.3)], delta=delta, labels=labels, scaling="additive")
        scales = {int(part.name.rsplit(maxsplit=1)[1]): part.lambda_hat for part in found.parts}
        risks = [np.exp(-100 * scale / (FACTORS[label] * REACH)).mean() for label, scale in scales.items()]
        violations += max(risks) > 0.3
    assert violations / N_DRAWS <= delta + 3 * math.sqrt(delta * (1 - delta) / N_DRAWS)


def test_quantile_of_images_in_groups_holds():
    """Images of a group share their hardness, so that groups, not images, are independent."""
    promise, delta = ImageQuantile(0.25, 0.2), 0.2
    generator = np.random.default_rng(13)
    violations = 0
    for _ in range(N_DRAWS):
        arrays, _ = draw(generator, 60)
        together = [array.repeat(3, axis=0) for array in arrays]
        found = calibrate_guarantees(
            *together, [promise], delta=delta, groups=np.arange(180) // 3, scaling="additive", ucb="hoeffding_bentkus"
        )
        assert (found.parts[0].unit, found.parts[0].n) == ("group", 60)
        violations += true_risk(promise, found.lambda_hat)[0] > 0.2
    assert violations / N_DRAWS <= delta + 3 * math.sqrt(delta * (1 - delta) / N_DRAWS)


WAVE = 0.3 + 0.25 * np.cos(np.linspace(0.0, 3 * np.pi, 25))  # falls below 0.2, rises above, falls again
FLAT = np.where(np.arange(25) == 24, 0.02, 0.21)


@pytest.mark.parametrize("method", ["fixed_sequence", "bonferroni"])
@pytest.mark.parametrize("ucb", ["wsr", "hoeffding_bentkus"])
@pytest.mark.parametrize(("means", "shared"), [(WAVE, True), (FLAT, False)])
def test_learn_then_test_accepts_no_bad_scale(method, ucb, means, shared):
    alpha, delta, n = 0.2, 0.2, 150
    generator = np.random.default_rng(14)
    violations = accepted = 0
    for _ in range(N_DRAWS):
        uniform = generator.random((n, 1 if shared else 25))
        losses = (uniform < means).astype(float)
        try:
            found = learn_then_test(losses, np.arange(25), alpha=alpha, delta=delta, ucb=ucb, method=method)
        except CalibrationError:
            continue
        accepted += 1
        violations += bool((means[found.valid] > alpha).any())
        assert found.risk_ucb <= alpha + 1e-12
    assert violations / N_DRAWS <= delta + 3 * math.sqrt(delta * (1 - delta) / N_DRAWS)
    assert accepted > 0.95 * N_DRAWS


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), ucb=st.sampled_from(sorted(UCBS)), delta=st.sampled_from([0.1, 0.5]))
def test_learn_then_test_equals_one_bound_after_another(seed, ucb, delta):
    generator = np.random.default_rng(seed)
    n, n_lambdas, alpha = int(generator.integers(2, 80)), int(generator.integers(1, 12)), 0.4
    losses = generator.random((n, n_lambdas)) ** generator.uniform(0.5, 6, n_lambdas)
    lambdas = np.sort(generator.normal(size=n_lambdas))
    passes = {
        method: np.array([UCBS[ucb](column, level) <= alpha for column in losses.T])
        for method, level in (("bonferroni", delta / n_lambdas), ("fixed_sequence", delta))
    }
    for method, valid in passes.items():
        if method == "fixed_sequence":
            valid[: n_lambdas - int(np.argmin([*valid[::-1], False]))] = False
        promise = {"alpha": alpha, "delta": delta, "ucb": ucb, "method": method}
        if not valid.any():
            with pytest.raises(CalibrationError, match=f"{method} accepts no lambda"):
                learn_then_test(losses, lambdas, **promise)
            continue
        found = learn_then_test(losses, lambdas, **promise)
        assert np.array_equal(found.valid, valid)
        assert found.lambda_hat == lambdas[valid].min()
        assert found.risk == pytest.approx(losses[:, valid][:, 0].mean())
        assert (found.n, found.alpha, found.delta, found.ucb, found.method) == (n, alpha, delta, ucb, method)


@pytest.mark.parametrize(
    ("promise", "name"),
    [
        (MeanRisk(0.1), "MeanRisk(alpha=0.1): no lambda_hat"),
        (WidestQuarter(0.1), "WidestQuarter(alpha=0.1, quarter=4): no lambda_hat"),
        (EveryGroup(0.1), "EveryGroup(alpha=0.1) label 'GE': no lambda_hat"),
        (ImageQuantile(0.1, 0.1), "ImageQuantile(pixel_share=0.1, image_share=0.1): no lambda_hat"),
    ],
)
def test_too_few_images_name_the_promise_and_how_many_are_needed(promise, name):
    def attempt(n):
        target = np.full((n, 4), 0.5)
        labels = ["Siemens"] * 200 + ["GE"] * (n - 200)
        rows = slice(0, None) if isinstance(promise, EveryGroup) else slice(200, None)
        arrays = [target[rows] for _ in range(3)]
        return calibrate_guarantees(*arrays, [promise], delta=0.1, labels=labels[rows])

    with pytest.raises(CalibrationError, match=re.escape(name)) as caught:
        attempt(205)
    needed = int(re.search(r"about (\d+) images would be needed", str(caught.value)).group(1))
    assert attempt(200 + needed).lambda_hat == 1.0
    with pytest.raises(CalibrationError, match=f"about {needed} images"):
        attempt(199 + needed)


def test_promises_out_of_reach_say_so():
    target = np.full((50, 10), 0.5)
    target[:, :3] = -0.125  # never covered
    arrays = [target - 0.125, target + 0.125, target]
    for promise in (MeanRisk(0.2), ImageQuantile(0.2, 0.1), EveryGroup(0.2), WidestQuarter(0.2, 1)):
        with pytest.raises(CalibrationError, match="no number of images would do"):
            calibrate_guarantees(*arrays, [promise], delta=0.2, labels=[0] * 50, scaling="additive")
    found = calibrate_guarantees(*arrays, [ImageQuantile(0.3, 0.1)], delta=0.2, scaling="additive")
    assert found.lambda_hat == -0.125  # exactly 3 of 10 may be missed
    with pytest.raises(CalibrationError, match="fixed_sequence accepts no lambda.*at lambda = 2.*about 22 units"):
        learn_then_test(np.zeros((5, 2)), [1.0, 2.0], alpha=0.1, delta=0.1)
    with pytest.raises(CalibrationError, match="bonferroni accepts no lambda.*at lambda = 1.*no number of units"):
        learn_then_test(np.full((5, 2), [0.4, 0.5]), [1.0, 2.0], alpha=0.1, delta=0.1, method="bonferroni")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeanRisk(0.0), "alpha = 0.0"),
        (lambda: WidestQuarter(1.0), "alpha = 1.0"),
        (lambda: WidestQuarter(0.1, 5), "quarter = 5"),
        (lambda: EveryGroup(math.nan), "alpha = nan"),
        (lambda: ImageQuantile(1.0, 0.1), "pixel_share = 1.0"),
        (lambda: ImageQuantile(0.1, 0.0), "image_share = 0.0"),
    ],
)
def test_promises_out_of_range_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"guarantees": []}, ConfigError, "must be a list of at least one"),
        ({"guarantees": ["mean"]}, ConfigError, "guarantee 'mean'"),
        ({"delta": 1.0}, ConfigError, "delta = 1.0"),
        ({"split": "holm"}, ConfigError, "split = 'holm'"),
        ({"ucb": "magic"}, ConfigError, "ucb = 'magic'"),
        ({"ucb": "clt"}, ConfigError, "ucb = 'clt': must hold for any number of units"),
        ({"ucb": "official"}, ConfigError, "choose one of wsr"),
        ({"scaling": "magic"}, ConfigError, "scaling = 'magic'"),
        ({"labels": None}, ConfigError, "EveryGroup needs labels"),
        ({"labels": [0] * 59}, ShapeError, "labels has shape"),
        ({"groups": [0] * 59}, ShapeError, "groups has shape"),
        ({"mask": np.zeros((60, 2, 3, 4))}, DataError, "mask selects no pixel"),
        ({"mask": np.eye(12)[:1].reshape(1, 1, 3, 4).repeat(60, 0)}, DataError, "image 0 has 2 evaluated pixels"),
    ],
)
def test_bad_input_is_named(images, wrong, error, message):
    options = {"guarantees": ALL, "delta": 0.5, "labels": [0] * 60, **wrong}
    with pytest.raises(error, match=message):
        calibrate_guarantees(*images, **options)


@pytest.mark.parametrize("quarter", [1, 4])
def test_nan_is_refused_unless_masked(images, quarter):
    upper = images[1].copy()
    upper[4, 1, 2, 3] = np.nan
    with pytest.raises(DataError, match="image 4"):
        calibrate_guarantees(images[0], upper, images[2], [WidestQuarter(0.3, quarter)], delta=0.3)
    mask = np.isfinite(upper)
    found = calibrate_guarantees(images[0], upper, images[2], [WidestQuarter(0.3, quarter)], delta=0.3, mask=mask)
    assert found.parts[0].n == 60


def test_bad_losses_are_named():
    losses, promise = np.zeros((50, 3)), {"alpha": 0.1, "delta": 0.1}
    for wrong, error, message in [
        ({"ucb": "conformal_risk_control"}, ConfigError, "must hold for any number of units"),
        ({"method": "holm"}, ConfigError, "method = 'holm'"),
        ({"alpha": 0.0}, ConfigError, "alpha = 0.0"),
        ({"delta": math.nan}, ConfigError, "delta = nan"),
        ({"losses": losses[:, :2]}, ShapeError, r"losses has shape \(50, 2\)"),
        ({"losses": losses[0]}, ShapeError, r"losses has shape \(3,\)"),
        ({"losses": losses[:0]}, ShapeError, r"losses has shape \(0, 3\)"),
        ({"losses": losses + 1.5}, DataError, "losses must be numbers"),
        ({"losses": losses * np.nan}, DataError, "losses must be numbers"),
        ({"lambdas": [1, 1, 2]}, DataError, "lambdas must be finite and increase"),
        ({"lambdas": [1, 2, math.inf]}, DataError, "lambdas must be finite and increase"),
    ]:
        with pytest.raises(error, match=message):
            learn_then_test(**{"losses": losses, "lambdas": [1, 2, 3], **promise, **wrong})


def test_search_in_many_small_steps_gives_the_same(monkeypatch):
    arrays, groups = make_images(3, 300), np.arange(300) // 2
    options = {"delta": 0.2, "labels": np.arange(300) % 3}
    expected = [calibrate_guarantees(*arrays, ALL, groups=given, **options) for given in (None, groups)]
    monkeypatch.setattr("conffusion.calibration.search._MAX_EDGES", 4)
    assert [calibrate_guarantees(*arrays, ALL, groups=given, **options) for given in (None, groups)] == expected


def test_arguments_are_not_written_to(images):
    copies = [array.copy() for array in images]
    calibrate_guarantees(*images, ALL, delta=0.3, labels=[0] * 60).apply(*images[:2])
    assert all(np.array_equal(array, copy) for array, copy in zip(images, copies, strict=True))


def test_former_names_stay_importable():
    assert calibration.calibrate_promises is calibration.calibrate_guarantees
    assert calibration.Promises is calibration.Guarantees and calibration.PromisePart is calibration.GuaranteePart
    assert calibration.Selection is calibration.LabelledBounds
