import time

import numpy as np
import pytest

from conffusion.data.folder import crop_centre
from conffusion.errors import ShapeError
from conffusion.images.resize import from_uint8, resize_bicubic, resize_pixels, to_uint8
from tests.conformance import blocky_image, load

SEEDS = (701, 702)


def as_batch(photo: np.ndarray) -> np.ndarray:
    return from_uint8(photo.transpose(2, 0, 1))[None]


def as_photo(batch: np.ndarray) -> np.ndarray:
    return to_uint8(batch)[0].transpose(1, 2, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_low_resolution_pipeline_is_the_official_one_bit_for_bit(seed: int) -> None:
    meta, arrays = load("images/degradation")
    photo = blocky_image(seed)
    low = resize_bicubic(as_batch(photo), 16, 16)
    enlarged = as_photo(resize_bicubic(low, 128, 128))
    np.testing.assert_array_equal(as_photo(low), arrays[f"lr_{seed}"])
    np.testing.assert_array_equal(enlarged[::4, ::4], arrays[f"sr_{seed}"])
    sums = meta["values"][f"sums_{seed}"]
    assert photo.sum() == sums["photo"]
    assert as_photo(low).sum() == sums["lr"]
    assert enlarged.sum() == sums["sr"]
    first = meta["values"][f"network_value_of_sr_first_pixel_{seed}"]
    np.testing.assert_allclose(enlarged[0, 0] / 255 * 2 - 1, first, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_photographs_are_reduced_as_officially(seed: int) -> None:
    _, arrays = load("images/degradation")
    np.testing.assert_array_equal(crop_centre(blocky_image(seed), 128)[::4, ::4], arrays[f"hr_{seed}"])


@pytest.mark.parametrize("seed", SEEDS)
def test_bilinear_is_that_of_the_official_guided_inpainting(seed: int) -> None:
    meta, arrays = load("images/degradation")
    reduced = resize_pixels(blocky_image(seed), 128, 128, "bilinear")
    np.testing.assert_allclose(reduced[::4, ::4].astype(int), arrays[f"g_inpainting_128_{seed}"], atol=1)
    assert abs(int(reduced.sum()) - meta["values"][f"sums_{seed}"]["g_inpainting_128"]) <= reduced.size // 100


@pytest.mark.parametrize("n_channels", [1, 2, 4])
def test_other_channel_counts_equal_the_colour_path(n_channels: int) -> None:
    planes = np.random.default_rng(0).random((2, n_channels, 12, 10), dtype=np.float32)
    resized = resize_bicubic(planes, 6, 20)
    assert resized.shape == (2, n_channels, 6, 20)
    assert resized.dtype == np.float32
    colour = resize_bicubic(np.repeat(planes[:, :1], 3, axis=1), 6, 20)
    np.testing.assert_array_equal(resized[:, 0], colour[:, 2])


def test_result_stays_in_range_and_on_the_8_bit_grid() -> None:
    edges = np.zeros((1, 3, 16, 16), np.float32)
    edges[..., 8:] = 1
    enlarged = resize_bicubic(edges, 64, 64)
    assert enlarged.min() == 0 and enlarged.max() == 1
    np.testing.assert_allclose(enlarged * 255, np.rint(enlarged * 255), atol=1e-4)


def test_argument_is_not_written_into_and_8_bit_values_survive() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    images = from_uint8(levels)
    before = images.copy()
    np.testing.assert_array_equal(to_uint8(resize_bicubic(images, 16, 16)), levels)
    np.testing.assert_array_equal(images, before)


def test_float_photographs_are_resized_without_rounding() -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None, :, None] * np.ones((64, 1, 3), np.float32)
    reduced = resize_pixels(ramp, 16, 16)
    assert reduced.dtype == np.float32
    steps = np.diff(reduced[8, 4:12, 0])
    np.testing.assert_allclose(steps, 4 / 63, atol=1e-5)
    assert not np.array_equal(resize_pixels(ramp, 16, 16, "bilinear"), reduced)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 0, 8), (1, 0, 8, 8)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="expected"):
        resize_bicubic(np.zeros(shape, np.float32), 4, 4)


def test_empty_batches_and_empty_sizes() -> None:
    assert resize_bicubic(np.zeros((0, 3, 8, 8), np.float32), 4, 4).shape == (0, 3, 4, 4)
    with pytest.raises(ShapeError, match="at least 1"):
        resize_bicubic(np.zeros((1, 3, 8, 8), np.float32), 0, 4)


def test_two_thousand_small_images_take_well_under_a_second() -> None:
    images = np.random.default_rng(1).random((2000, 3, 32, 32), dtype=np.float32)
    start = time.process_time()
    resize_bicubic(resize_bicubic(images, 8, 8), 32, 32)
    assert time.process_time() - start < 3  # 0.2 s on a quiet machine
