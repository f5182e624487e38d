"""What restoration models may answer, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conffusion.bounds import sampled_bounds
from conffusion.errors import DataError, ShapeError
from conffusion.inference.interval import Interval
from conffusion.inference.restoration_model import Pair, restore_image, restore_pairs

QUANTILES = (0.1, 0.9)
SHAPE = (3, 5, 6)
IMAGE = np.random.default_rng(0).random(SHAPE)


def answer(value: object, mask: np.ndarray | None = None):
    return restore_image(lambda image, **_: value, IMAGE, mask, {}, QUANTILES)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_samples_become_quantiles_and_their_mean(kind) -> None:
    samples = np.random.default_rng(1).random((7, *SHAPE))
    restored = answer(kind(samples))
    lower, upper = sampled_bounds(samples, *QUANTILES)
    np.testing.assert_allclose(restored.lower, lower, atol=1e-7)
    np.testing.assert_allclose(restored.upper, upper, atol=1e-7)
    np.testing.assert_allclose(restored.estimate, samples.mean(axis=0), atol=1e-7)
    assert restored.estimate_kind == "mean_of_variants" and restored.mask is None


def test_tensors_that_numpy_cannot_take_are_converted() -> None:
    samples = torch.full((2, *SHAPE), 0.5, dtype=torch.bfloat16, requires_grad=True) * 0.5
    np.testing.assert_array_equal(answer(samples).lower, np.full(SHAPE, 0.25))


def test_a_pair_of_bounds_is_taken_as_it_is_and_crossed_ones_are_sorted() -> None:
    low, high = np.full(SHAPE, 0.2), np.full(SHAPE, 0.6)
    low[0, 0, 0], high[0, 0, 0] = 0.9, 0.1
    restored = answer((low, high))
    assert restored.estimate_kind == "midpoint"
    assert restored.lower[0, 0, 0] == 0.1 and restored.upper[0, 0, 0] == 0.9
    np.testing.assert_array_equal(restored.lower[1:], low[1:])


def test_grey_bounds_may_lack_the_channel() -> None:
    grey = np.zeros((5, 6))
    assert answer((grey, grey + 1)).lower.shape == (1, 5, 6)


def test_an_object_with_bounds_is_taken_with_its_estimate() -> None:
    low, high, middle = (np.full(SHAPE, value, np.float32) for value in (0.1, 0.8, 0.3))
    assert answer(SimpleNamespace(lower=low, upper=high)).estimate_kind == "midpoint"
    assert answer(SimpleNamespace(lower=low, upper=high, estimate=middle)).estimate_kind == "point_head"
    restored = answer(Interval(low, high, middle, "mean_of_variants"))
    assert restored.estimate_kind == "mean_of_variants"
    np.testing.assert_array_equal(restored.estimate, middle.astype(np.float64))


def test_where_the_mask_is_0_the_image_itself_is_known() -> None:
    mask = np.zeros(SHAPE[1:], bool)
    mask[1:3, 2:4] = True
    seen = {}

    def model(image, mask):
        seen["mask"] = mask
        return np.zeros(SHAPE), np.ones(SHAPE)

    restored = restore_image(model, IMAGE, mask, {}, QUANTILES)
    assert restored.mask is not None and seen["mask"].dtype == np.uint8
    np.testing.assert_array_equal(restored.estimate[:, ~mask], IMAGE[:, ~mask])
    np.testing.assert_array_equal(restored.mask, mask)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(SHAPE), r"returned shape \(3, 5, 6\): give samples \(J, C, H, W\), a tuple"),
        (np.zeros((1, *SHAPE)), r"returned shape \(1, 3, 5, 6\)"),
        ([np.zeros(SHAPE), np.ones(SHAPE)], "returned a list"),
        (None, "returned a NoneType"),
        ((np.zeros(SHAPE), np.zeros((3, 5, 5))), "both must be"),
        ((np.zeros((2, *SHAPE)),) * 2, "both must be"),
        ((np.zeros(SHAPE), np.full(SHAPE, np.nan)), "NaN or infinite"),
        (np.full((3, *SHAPE), np.inf), "NaN or infinite"),
    ],
)
def test_other_answers_are_refused(value: object, message: str) -> None:
    with pytest.raises((ShapeError, DataError), match=message):
        answer(value)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((5, 6)), "1 at one pixel at least"),
        (np.full((5, 6), 2), "0 and 1 only"),
        (np.ones((1, 5, 6)), r"must be \(H, W\)"),
        (np.ones((5, 5)), "of one size|have one size"),
    ],
)
def test_unsuitable_masks_are_refused(mask: np.ndarray, message: str) -> None:
    with pytest.raises((ShapeError, DataError), match=message):
        answer((np.zeros(SHAPE), np.ones(SHAPE)), mask)


def test_options_of_a_pair_reach_the_model() -> None:
    seen = []

    def model(image, level):
        seen.append(level)
        return image - level, image + level

    pairs = [Pair(IMAGE, IMAGE, options={"level": level}) for level in (0.1, 0.2)]
    found = list(restore_pairs(model, pairs, QUANTILES))
    assert seen == [0.1, 0.2]
    np.testing.assert_allclose(found[1][1].upper, IMAGE + 0.2)
    assert found[0][0].target.dtype == np.float32


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "there are no pairs"),
        ([IMAGE], r"pair 0: is a ndarray: give \(image, target\)"),
        ([(IMAGE, IMAGE), (IMAGE,)], "pair 1: is a tuple"),
        ([(IMAGE, IMAGE[:, :4])], r"pair 0: the truth has shape \(3, 4, 6\), but the restored image has \(3, 5, 6\)"),
        ([(IMAGE, IMAGE * 2)], "pair 0: the truth holds values outside"),
        ([(IMAGE, np.full(SHAPE, np.nan))], "pair 0: the truth holds values outside"),
        ([(IMAGE, np.zeros(SHAPE, np.uint8))], "pair 0: the truth holds uint8: divide"),
        ([(IMAGE, IMAGE, None, "a"), (IMAGE, IMAGE)], "pair 1: has no group, unlike"),
        ([(IMAGE, IMAGE), (IMAGE, IMAGE, None, "a")], "pair 1: has a group, unlike"),
    ],
)
def test_unsuitable_pairs_are_refused_by_their_number(pairs: list[object], message: str) -> None:
    with pytest.raises((ShapeError, DataError), match=message):
        list(restore_pairs(lambda image: (image, image), pairs, QUANTILES))
