"""Tiles: they cover, overlap and blend; holes lie where the network's holes lay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conffusion.errors import ConfigError, DataError
from conffusion.inference.tiling import Canvas, Tile, grid_tiles, hole_tiles

SIZE = 16


def put_together(tiles: list, image: np.ndarray, background: float = np.nan) -> np.ndarray:
    canvas = Canvas(tiles, image.shape)
    for tile in tiles:
        canvas.add(tile, tile.cut(image))
    assert canvas.is_complete
    return canvas.blend(np.full(image.shape, background))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, SIZE - 1))
def test_tiles_put_together_give_the_image_back(height: int, width: int, overlap: int) -> None:
    image = np.random.default_rng(height * 61 + width).random((2, height, width))
    tiles = grid_tiles(height, width, SIZE, overlap)
    np.testing.assert_allclose(put_together(tiles, image), image, atol=1e-12)


@given(st.integers(17, 200), st.integers(0, 12))
def test_neighbours_share_the_asked_overlap(length: int, overlap: int) -> None:
    tops = [tile.top for tile in grid_tiles(length, SIZE, SIZE, overlap)]
    assert tops[0] == 0 and tops[-1] == length - SIZE
    assert all(second - first <= SIZE - overlap for first, second in zip(tops, tops[1:], strict=False))


@given(st.integers(1, 30), st.integers(0, 8))
def test_tiles_start_on_the_raster_of_super_resolution(n_rows: int, overlap: int) -> None:
    tops = [tile.top for tile in grid_tiles(4 * n_rows, 64, SIZE, overlap, step=4)]
    assert all(top % 4 == 0 for top in tops)
    assert all(second - first <= SIZE - overlap for first, second in zip(tops, tops[1:], strict=False) if overlap <= 8)


def test_an_image_of_the_network_s_size_is_one_tile_unchanged() -> None:
    (tile,) = grid_tiles(SIZE, SIZE, SIZE, 4)
    assert (tile.top, tile.left) == (0, 0) and (tile.weight == 1).all()


def test_tiles_that_disagree_are_blended_without_a_seam() -> None:
    tiles = grid_tiles(SIZE, 40, SIZE, 8)
    canvas = Canvas(tiles, (1, SIZE, 40))
    for k, tile in enumerate(tiles):
        canvas.add(tile, np.full((1, SIZE, SIZE), float(k)))
    steps = np.abs(np.diff(canvas.blend(np.zeros(1))[0, 0]))
    assert steps.max() < 0.25  # neighbours disagree by 1, and a hard cut would step by 1


def test_overlap_must_be_below_the_tile() -> None:
    with pytest.raises(ConfigError, match="overlap = 16"):
        grid_tiles(40, 40, SIZE, SIZE)


def box(size: int = SIZE) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[4:12, 4:12] = 1
    return mask


def test_the_trained_hole_is_one_tile_at_the_origin() -> None:
    (tile,) = hole_tiles(box(), box())
    assert (tile.top, tile.left) == (0, 0)
    np.testing.assert_array_equal(tile.mask, box())
    np.testing.assert_array_equal(tile.weight, box())


@given(st.data())
def test_every_missing_pixel_and_no_other_is_taken_from_a_tile(data: st.DataObject) -> None:
    missing = np.zeros((40, 30), np.uint8)
    for _ in range(data.draw(st.integers(1, 3))):
        top, left = data.draw(st.integers(0, 36)), data.draw(st.integers(0, 26))
        missing[top : top + 3, left : left + 3] = 1
    try:
        tiles = hole_tiles(missing, box())
    except DataError:
        return  # holes that touch may be too large together
    image = np.random.default_rng(0).random((1, *missing.shape))
    result = put_together(tiles, image, background=-1.0)
    np.testing.assert_allclose(result[0][missing == 1], image[0][missing == 1])
    assert (result[0][missing == 0] == -1).all()


def test_a_small_hole_lies_in_the_middle_of_the_hidden_box() -> None:
    missing = np.zeros((64, 64), np.uint8)
    missing[30:32, 40:42] = 1
    (tile,) = hole_tiles(missing, box())
    rows, columns = np.nonzero(tile.weight)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 8, 7, 8)
    np.testing.assert_array_equal(tile.mask, box())


def test_other_holes_in_sight_are_hidden_as_well() -> None:
    missing = np.zeros((16, 16), np.uint8)
    missing[6:8, 6:8] = 1
    missing[14, 14] = 1
    first = hole_tiles(missing, box())[0]
    assert first.cut(missing).sum() == 5
    assert (first.mask[first.cut(missing) == 1] == 1).all()


def test_a_hole_at_the_border_is_seen_with_mirrored_surroundings() -> None:
    missing = np.zeros((20, 20), np.uint8)
    missing[0, 0] = 1
    (tile,) = hole_tiles(missing, box())
    assert tile.top < 0 and tile.left < 0 and tile.weight.sum() == 1


def test_a_hole_larger_than_the_trained_one_is_refused() -> None:
    missing = np.zeros((64, 64), np.uint8)
    missing[10:19, 20:25] = 1
    with pytest.raises(DataError, match="hole of 5x9 pixels at column 20, row 10 is larger than the 8x8"):
        hole_tiles(missing, box())


@given(st.integers(-40, 40), st.integers(1, 30), st.integers(1, 30))
def test_beyond_the_border_the_image_is_mirrored_with_its_edge_pixels(start: int, height: int, width: int) -> None:
    image = np.arange(height * width).reshape(height, width)
    tile = Tile(start, -start, np.ones((SIZE, SIZE)), np.ones((SIZE, SIZE), np.uint8))
    padded = np.pad(image, 60, mode="symmetric")
    np.testing.assert_array_equal(tile.cut(image), padded[60 + start :, 60 - start :][:SIZE, :SIZE])
