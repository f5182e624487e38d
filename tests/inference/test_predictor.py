"""`Predictor`: intervals of images of any size, the same whatever the batch."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from conffusion import Predictor
from conffusion.errors import ConfigError, DataError, ShapeError
from conffusion.images.resize import resize_bicubic
from conffusion.inference.evidence import Evidence
from conffusion.inference.package import Package
from conffusion.inference.predictor import Corrupted, enlarge
from conffusion.methods.one_pass import RawBounds
from conffusion.sampling import ChainSampler
from conffusion.tasks import DegradedImages
from tests.inference.small_package import small_package
from tests.methods.small_specs import SIDE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def enlarging(folder: Path) -> Predictor:
    return Predictor(small_package(folder), device="cpu")


@pytest.fixture(scope="module")
def filling(folder: Path) -> Predictor:
    return Predictor(small_package(folder, "inpainting", kind="palette"), device="cpu")


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape, dtype=np.float32)


def hole(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[5:9, 6:12] = 1
    return mask


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 10, 7), (1, 9, 9), (5, 6), (3, 1, 1)])
def test_super_resolution_returns_the_enlarged_size(enlarging: Predictor, shape: tuple[int, ...]) -> None:
    interval = enlarging(image(*shape))
    channels = shape[0] if len(shape) == 3 else 1
    assert interval.lower.shape == (channels, 4 * shape[-2], 4 * shape[-1])
    for array in (interval.lower, interval.upper, interval.estimate):
        assert array.dtype == np.float32 and array.min() >= 0 and array.max() <= 1
    assert (interval.lower <= interval.estimate).all() and (interval.estimate <= interval.upper).all()
    assert interval.estimate_kind == "midpoint" and 0 < interval.image_p_value <= 1


def test_one_tile_is_the_network_s_bounds_calibrated(enlarging: Predictor) -> None:
    small = np.round(image(3, 4, 4) * 255).astype(np.float32) / np.float32(255)
    condition = resize_bicubic(small[None], SIDE, SIDE)
    raw = enlarging._backend.bounds(DegradedImages(enlarging.task, 5, ["x"], condition, np.ones_like(condition)))
    lower, upper = np.minimum(raw.lower, raw.upper), np.maximum(raw.lower, raw.upper)
    expected = enlarging.calibration.apply(lower, upper)
    found = enlarging(small)
    np.testing.assert_array_equal(found.lower, expected[0][0].astype(np.float32))
    np.testing.assert_array_equal(found.upper, expected[1][0].astype(np.float32))


@pytest.mark.parametrize("method", ["n_conffusion", "dm_sb"])
def test_bounds_depend_neither_on_the_batch_nor_on_other_images(folder: Path, method: str) -> None:
    package = small_package(folder, method=method)
    images = [Corrupted(image(3, 7, 9)), Corrupted(image(3, 4, 4)), Corrupted(image(3, 5, 8))]
    together = list(Predictor(package, device="cpu", batch_size=5).map_uncalibrated(images))
    assert [one for one, _ in together] == images
    for one, interval in together:
        ((_, alone),) = Predictor(package, device="cpu", batch_size=64).map_uncalibrated([one])
        np.testing.assert_allclose(alone.lower, interval.lower, atol=1e-4)
        np.testing.assert_allclose(alone.upper, interval.upper, atol=1e-4)


def test_images_are_read_as_they_are_needed(enlarging: Predictor) -> None:
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield Corrupted(image(3, 4, 4))

    stream = Predictor(enlarging.package, device="cpu", batch_size=4).map(endless())
    for _ in range(3):
        next(stream)
    assert len(taken) <= 8


def test_sampled_bounds_have_the_mean_of_the_variants(folder: Path) -> None:
    predictor = Predictor(small_package(folder, method="dm_sb"), device="cpu")
    interval = predictor(image(3, 4, 4))
    assert interval.estimate_kind == "mean_of_variants" and predictor.forward_passes == 2 * 4


def test_a_point_head_is_the_estimate(folder: Path) -> None:
    interval = Predictor(small_package(folder, method="adm_uq"), device="cpu")(image(3, 4, 4))
    assert interval.estimate_kind == "point_head"


def test_known_pixels_are_points_and_missing_ones_are_not_looked_at(filling: Predictor) -> None:
    pixels, mask = image(3, 24, 20), hole(24, 20)
    interval = filling(pixels, mask)
    for array in (interval.lower, interval.upper, interval.estimate):
        np.testing.assert_array_equal(array[:, mask == 0], pixels[:, mask == 0])
    assert (interval.size[:, mask == 1] > 0).any()
    other = np.where(mask == 1, np.float32(0.9), pixels)
    np.testing.assert_array_equal(filling(other, mask).lower, interval.lower)
    assert interval.size_mean == pytest.approx(interval.size[:, mask == 1].mean())


def test_risk_counts_restored_pixels_only(filling: Predictor) -> None:
    pixels, mask = image(3, 24, 20), hole(24, 20)
    interval = filling(pixels, mask)
    inside = (interval.lower <= pixels) & (pixels <= interval.upper)
    assert interval.risk(pixels) == pytest.approx(1 - inside[:, mask == 1].mean())


@pytest.mark.parametrize(
    ("pixels", "mask", "message"),
    [
        (image(2, 8, 8), None, "must be \\(C, H, W\\) with 1 or 3 channels"),
        (image(3, 8, 8)[None], None, "must be \\(C, H, W\\)"),
        (np.zeros((3, 0, 4), np.float32), None, "must be \\(C, H, W\\)"),
        (np.zeros((3, 4, 4), np.uint8), None, "holds uint8: divide"),
        (np.full((3, 4, 4), np.nan, np.float32), None, "outside \\[0, 1\\] or NaN"),
        (image(3, 4, 4) + 1, None, "outside \\[0, 1\\]"),
        (image(3, 4, 4), np.ones((16, 16)), "leave the mask out"),
    ],
)
def test_unsuitable_images_are_refused(enlarging: Predictor, pixels: np.ndarray, mask: object, message: str) -> None:
    with pytest.raises((DataError, ShapeError), match=message):
        enlarging(pixels, mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "needs a mask"),
        (np.zeros((16, 16)), "1 at one pixel at least"),
        (np.full((16, 16), 0.5), "0 and 1 only"),
        (np.ones((8, 8)), "mask has shape"),
        (np.ones((16, 16)), "hole of 16x16 pixels .* is larger than the 8x8"),
    ],
)
def test_unsuitable_masks_are_refused(filling: Predictor, mask: object, message: str) -> None:
    with pytest.raises((DataError, ShapeError), match=message):
        filling(image(3, 16, 16), mask)


def test_single_images_are_compared_with_one_image_of_each_group(folder: Path) -> None:
    package = small_package(folder)
    groups = np.arange(30) // 3
    grouped = Package(package.record, package.weights, dataclasses.replace(package.evidence, groups=groups))
    predictor = Predictor(grouped, device="cpu")
    drift = predictor.drift(package.evidence.features[:5])
    assert drift.unit == "image" and drift.n_reference_used == 10 and drift.n_new_used == 5
    drift = predictor.drift(package.evidence.features[:6], groups=np.arange(6) // 2)
    assert drift.unit == "group" and drift.n_reference_used == 10 and drift.n_new_used == 3


def test_groups_raise_no_false_alarms() -> None:
    p_values = []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        people = generator.standard_normal((40, 1, 14))
        known = (people + 0.3 * generator.standard_normal((40, 5, 14))).reshape(200, 14)
        new = generator.standard_normal((40, 14)) + 0.3 * generator.standard_normal((40, 14))
        evidence = Evidence(np.zeros(200), known, np.repeat(np.arange(40), 5))
        p_values.append(evidence.drift(new, seed=seed).p_value)
    assert np.mean(np.array(p_values) <= 0.05) < 0.15


def test_sixteen_bits_are_not_reduced_to_eight(enlarging: Predictor) -> None:
    fine = np.linspace(1000, 1143, 16, dtype=np.float32).reshape(1, 4, 4) / np.float32(65535)
    assert len(np.unique(enlarge(fine, enlarging.task))) > 50


def test_what_comes_before_a_damaged_image_is_finished(enlarging: Predictor) -> None:
    def images():
        yield Corrupted(image(3, 4, 4))
        yield Corrupted(image(3, 4, 4) + 9)

    stream = enlarging.map(images())
    assert next(stream)[1].lower.shape == (3, 16, 16)
    with pytest.raises(DataError, match="outside"):
        next(stream)


def test_images_that_would_become_too_large_are_refused(enlarging: Predictor) -> None:
    with pytest.raises(DataError, match="would become 12000x12000"):
        enlarging(np.zeros((1, 3000, 3000), np.float32))


def test_holes_at_borders_and_in_clusters_are_marked(filling: Predictor) -> None:
    pixels, mask = image(3, 40, 40), np.zeros((40, 40), np.uint8)
    mask[16:24, 16:24] = 1
    assert not filling(pixels, mask).odd_holes
    border, cluster = np.roll(mask, 16, axis=0), mask.copy()
    cluster[16:20, 26:30] = 1
    assert filling(pixels, border).odd_holes
    assert filling(pixels, cluster).odd_holes


def test_drift_of_the_calibration_images_themselves_is_unremarkable(enlarging: Predictor) -> None:
    features = enlarging.package.evidence.features
    assert enlarging.drift(features).p_value > 0.5
    assert enlarging.drift(features * 2).p_value < 0.01


class SmallMemory:
    """Stands for a backend whose device has room for few tiles at a time."""

    estimate_kind, forward_passes = "midpoint", 1

    def __init__(self, room: int) -> None:
        self.room, self.calls = room, []

    def bounds(self, images: DegradedImages) -> RawBounds:
        self.calls.append(len(images.image_ids))
        if len(images.image_ids) > self.room:
            raise RuntimeError("CUDA error: out of memory")
        return RawBounds(images.condition, images.condition, images.condition)


def test_the_batch_that_memory_has_room_for_is_remembered(enlarging: Predictor) -> None:
    predictor = Predictor(enlarging.package, device="cpu", batch_size=16)
    predictor._backend = memory = SmallMemory(room=3)
    given = [image(3, 4, 4 * k) for k in range(1, 40)]
    found = list(predictor.map(map(Corrupted, given)))
    assert memory.calls[:4] == [16, 8, 4, 2] and max(memory.calls[3:]) == 2
    assert [interval.lower.shape for _, interval in found] == [(3, 16, 16 * k) for k in range(1, 40)]
    predictor(given[0])
    assert max(memory.calls[3:]) == 2


def test_the_number_of_variants_that_memory_has_room_for_is_remembered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, draw = [], ChainSampler._draw

    def draw_few(sampler: ChainSampler, chains: list) -> torch.Tensor:
        calls.append(len(chains))
        if len(chains) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return draw(sampler, chains)

    monkeypatch.setattr(ChainSampler, "_draw", draw_few)
    predictor = Predictor(small_package(folder, method="dm_sb"), device="cpu", batch_size=8)
    for k in range(1, 4):
        predictor(image(3, 4, 4 * k))
    assert [n for n in calls if n > 3] == [4] and max(calls[1:]) <= 3


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_nothing_are_refused(enlarging: Predictor, batch_size: int) -> None:
    with pytest.raises(ConfigError, match=f"batch_size = {batch_size}: must be at least 1"):
        Predictor(enlarging.package, device="cpu", batch_size=batch_size)
