"""Noise and classes shown to a network: functions of (seed, task, image id) and nothing else."""

import numpy as np
import pytest

from conffusion.methods.random_inputs import image_classes, image_noise

SHAPE = (3, 8, 8)
IDS = ["a", "b", "ü/3", "d"]


def test_noise_of_an_image_ignores_the_others() -> None:
    together = image_noise("fill", 1, "t", IDS, SHAPE)
    assert together.shape == (4, *SHAPE)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together[::-1], image_noise("fill", 1, "t", IDS[::-1], SHAPE))
    np.testing.assert_array_equal(together[2:3], image_noise("fill", 1, "t", IDS[2:3], SHAPE))


@pytest.mark.parametrize("changed", [("forward", 1, "t"), ("fill", 2, "t"), ("fill", 1, "u")])
def test_noise_depends_on_purpose_seed_and_task(changed: tuple[str, int, str]) -> None:
    assert not np.isclose(image_noise("fill", 1, "t", IDS, SHAPE), image_noise(*changed, IDS, SHAPE)).any()


def test_noise_is_standard_normal() -> None:
    noise = image_noise("fill", 0, "t", [str(k) for k in range(200)], (3, 16, 16))
    assert abs(noise.mean()) < 5 / noise.size**0.5
    assert abs(noise.std() - 1) < 0.01


def test_classes_are_uniform_and_stay_with_their_image() -> None:
    ids = [str(k) for k in range(3000)]
    classes = image_classes(5, "t", ids, 9)
    np.testing.assert_array_equal(classes[::-1], image_classes(5, "t", ids[::-1], 9))
    counts = np.bincount(classes, minlength=9)
    assert len(counts) == 9
    assert (np.abs(counts - 3000 / 9) < 5 * (3000 / 9) ** 0.5).all()
    assert (classes != image_classes(6, "t", ids, 9)).mean() > 0.8
