"""The drawn portraits: repeatable to the bit, the same person at any size, and varied."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from conffusion.core.arrays import FloatArray
from conffusion.demo import POPULATIONS, render_faces
from conffusion.demo.populations import ATTRIBUTES, DISTRIBUTIONS, draw_attributes
from conffusion.errors import ConfigError

Pictures = npt.NDArray[np.uint8]


# Mean colour of faces 0 to 3 at 32 x 32: trained weights and results rest on the pictures staying as they are.
MEAN_COLOURS = {
    "wide": [[117.0, 115.8, 108.2], [94.3, 63.6, 61.2], [117.6, 106.8, 90.7], [126.6, 140.9, 132.4]],
    "shifted": [[160.3, 145.0, 125.1], [170.0, 153.0, 144.5], [156.9, 136.3, 106.2], [127.5, 114.4, 105.4]],
}


def halve(pictures: Pictures) -> FloatArray:
    """Mean over blocks of 2 x 2 pixels of (N, 3, S, S)."""
    count, channels, size, _ = pictures.shape
    blocks = pictures.astype(np.float64).reshape(count, channels, size // 2, 2, size // 2, 2)
    halved: FloatArray = blocks.mean(axis=(3, 5))
    return halved


@pytest.fixture(scope="module")
def wide() -> Pictures:
    return render_faces(range(96), 32)


@pytest.fixture(scope="module")
def shifted() -> Pictures:
    return render_faces(range(96), 32, population="shifted")


def test_shape_type_and_range(wide: Pictures) -> None:
    assert wide.shape == (96, 3, 32, 32)
    assert wide.dtype == np.uint8
    assert wide.min() < 20
    assert wide.max() > 230


@pytest.mark.parametrize("size", [8, 33, 64])
def test_any_size(size: int) -> None:
    assert render_faces([5], size).shape == (1, 3, size, size)


def test_no_indices_give_an_empty_batch() -> None:
    assert render_faces([], 32).shape == (0, 3, 32, 32)


def test_the_same_call_gives_the_same_pictures(wide: Pictures) -> None:
    np.testing.assert_array_equal(render_faces(range(96), 32), wide)


@pytest.mark.parametrize("batch", [[7], [40, 7], [95, 3, 3, 60, 0], list(range(70, 20, -1))])
def test_a_face_does_not_depend_on_its_batch(wide: Pictures, batch: list[int]) -> None:
    np.testing.assert_array_equal(render_faces(batch, 32), wide[batch])


@pytest.mark.parametrize(("size", "supersample"), [(31, 1), (45, 3), (64, 2)])
def test_batches_do_not_matter_at_odd_sizes(size: int, supersample: int) -> None:
    together = render_faces(range(9), size, supersample=supersample)
    alone = [render_faces([index], size, supersample=supersample) for index in range(9)]
    np.testing.assert_array_equal(np.concatenate(alone), together)


def test_threads_do_not_matter(wide: Pictures) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            np.testing.assert_array_equal(render_faces(range(48), 32), wide[:48])
    finally:
        torch.set_num_threads(before)


def test_index_array_and_list_agree(wide: Pictures) -> None:
    np.testing.assert_array_equal(render_faces(np.asarray([2, 9], dtype=np.int32), 32), wide[[2, 9]])


def test_seed_and_population_change_the_faces(wide: Pictures, shifted: Pictures) -> None:
    other = render_faces(range(16), 32, seed=1)
    assert np.abs(other.astype(int) - wide[:16]).mean(axis=(1, 2, 3)).min() > 5
    assert np.abs(shifted[:16].astype(int) - wide[:16]).mean(axis=(1, 2, 3)).min() > 5


@pytest.mark.parametrize("population", POPULATIONS)
def test_the_same_person_at_any_size(population: str) -> None:
    small = render_faces(range(24), 32, population=population).astype(np.float64)
    large = halve(render_faces(range(24), 64, population=population))
    for one, other in zip(small, large, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("population", POPULATIONS)
def test_faces_are_diverse(population: str) -> None:
    flat = render_faces(range(64), 32, population=population).reshape(64, -1).astype(np.float64)
    distance = np.abs(flat[:, None] - flat[None]).mean(axis=2)[np.triu_indices(64, k=1)]
    assert distance.min() > 8
    assert distance.mean() > 35


def test_the_wide_population_is_more_varied(wide: Pictures, shifted: Pictures) -> None:
    spread = [pictures.astype(np.float64).std(axis=0).mean() for pictures in (wide, shifted)]
    assert spread[0] > 1.05 * spread[1]


def test_attributes_differ_between_populations() -> None:
    uniforms = np.random.default_rng(0).random((4000, len(ATTRIBUTES)))
    wide, shifted = (draw_attributes(uniforms, population) for population in POPULATIONS)
    assert np.abs(shifted["yaw"]).mean() < 0.8 * np.abs(wide["yaw"]).mean()
    assert shifted["smile"].mean() > wide["smile"].mean() + 0.3
    assert (shifted["hat_kind"] > 0).mean() < 0.5 * (wide["hat_kind"] > 0).mean()


def test_both_populations_list_the_same_attributes_in_the_same_order() -> None:
    assert {tuple(table) for table in DISTRIBUTIONS.values()} == {ATTRIBUTES}


def test_pictures_are_neither_flat_nor_noise(wide: Pictures) -> None:
    gray = wide.astype(np.float64).mean(axis=1)
    assert gray.std(axis=(1, 2)).min() > 8
    step = np.abs(np.diff(gray, axis=2)).mean(axis=(1, 2))
    assert step.max() < gray.std(axis=(1, 2)).max()


def test_unknown_population_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"'celebs'.*wide, shifted"):
        render_faces([0], 32, population="celebs")


@pytest.mark.parametrize(("size", "supersample"), [(4, 2), (32, 0)])
def test_too_small_a_canvas_is_refused(size: int, supersample: int) -> None:
    with pytest.raises(ConfigError, match="size >= 8"):
        render_faces([0], size, supersample=supersample)


@pytest.mark.parametrize("population", POPULATIONS)
def test_the_pictures_stay_as_they_are(population: str) -> None:
    found = render_faces(range(4), 32, population=population).mean(axis=(2, 3))
    np.testing.assert_allclose(found, MEAN_COLOURS[population], atol=0.3)
