"""The bundle of bounds, truth, mask, weights and groups: what it refuses, and that it is read right from anywhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from conffusion.core.labelled_bounds import LabelledBounds, evaluated, read_blocks, slices_to_read
from conffusion.errors import DataError, ShapeError

N, SHAPE = 11, (11, 3, 5, 4)


def arrays(seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    target = generator.random(SHAPE, dtype=np.float32)
    return {
        "lower": target - generator.random(SHAPE, dtype=np.float32),
        "upper": target + generator.random(SHAPE, dtype=np.float32),
        "target": target,
        "mask": (generator.random((N, 1, 5, 4)) > 0.4).astype(np.uint8),
        "weights": generator.random((N, 1, 5, 4)),
    }


def on_disk(folder: Path, chunk: int) -> dict[str, Any]:
    group = zarr.open_group(folder, mode="w")
    return {
        name: group.create_array(name, data=array, chunks=(chunk, *array.shape[1:])) for name, array in arrays().items()
    }


def whole(images: LabelledBounds, **options: Any) -> dict[str, Any]:
    """All blocks put together again."""
    blocks = list(images.blocks(**options))
    assert [row for block in blocks for row in range(block.rows.start, block.rows.stop)] == list(range(N))
    names = ("lower", "upper", "target", "mask", "weights")
    return {name: np.concatenate([getattr(block, name) for block in blocks]) for name in names}


@pytest.mark.parametrize("n_pixels", [1, 60, 200, 10_000])
@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_blocks_hold_every_image_once(tmp_path: Path, n_pixels: int, chunk: int | None) -> None:
    images = LabelledBounds(**(arrays() if chunk is None else on_disk(tmp_path / "a", chunk)))
    for name, array in whole(images, n_pixels=n_pixels).items():
        np.testing.assert_array_equal(array, arrays()[name])
    assert all(block.n_rows <= max(1, n_pixels // 60) for block in images.blocks(n_pixels))


def test_zarr_arrays_are_read_in_whole_chunks_and_never_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conffusion.core.labelled_bounds._READ_PIXELS", 6 * 60)
    images = LabelledBounds(**on_disk(tmp_path / "a", 4))
    assert images.slices() == [slice(0, 4), slice(4, 8), slice(8, 11)]
    assert LabelledBounds(**arrays()).slices() == [slice(0, 11)]


def test_torch_tensors_are_viewed() -> None:
    torch = pytest.importorskip("torch")
    lower, upper, target = (torch.tensor(arrays()[name]) for name in ("lower", "upper", "target"))
    images = LabelledBounds(lower, upper, target)
    assert isinstance(images.lower, np.ndarray) and np.shares_memory(images.lower, lower.numpy())


def test_what_is_evaluated_has_the_full_shape() -> None:
    block = next(LabelledBounds(**arrays()).blocks(10_000))
    np.testing.assert_array_equal(block.evaluated, np.broadcast_to(arrays()["mask"] == 1, SHAPE))
    without = next(LabelledBounds(**arrays() | {"mask": None}).blocks(10_000))
    assert without.mask is None and without.evaluated.all() and without.evaluated.shape == SHAPE


@pytest.mark.parametrize("chunk", [None, 3])
def test_pixels_are_counted(tmp_path: Path, chunk: int | None) -> None:
    images = LabelledBounds(**(arrays() if chunk is None else on_disk(tmp_path / "a", chunk)))
    np.testing.assert_array_equal(images.count_evaluated(), 3 * arrays()["mask"].sum(axis=(1, 2, 3)))
    full = LabelledBounds(**arrays() | {"mask": np.ones(SHAPE, bool)})
    np.testing.assert_array_equal(full.count_evaluated(), np.full(N, 60))
    np.testing.assert_array_equal(LabelledBounds(**arrays() | {"mask": None}).count_evaluated(), np.full(N, 60))


@pytest.mark.parametrize("chunk", [None, 3])
def test_images_are_taken_in_the_given_order(tmp_path: Path, chunk: int | None) -> None:
    given = arrays() if chunk is None else on_disk(tmp_path / "a", chunk)
    images, order = LabelledBounds(**given, groups=list("abcdefghijk")), np.array([7, 2, 9, 0])
    taken = images.take(order)
    for name, array in arrays().items():
        np.testing.assert_array_equal(getattr(taken, name), array[order])
    assert taken.groups.tolist() == ["h", "c", "j", "a"]
    for name, array in arrays().items():
        assert isinstance(getattr(images.in_memory(), name), np.ndarray)
        np.testing.assert_array_equal(getattr(images.in_memory(), name), array)


def test_units_are_groups_where_there_are_any() -> None:
    given = arrays()
    assert LabelledBounds(**given).n_units == 11
    assert LabelledBounds(**given, groups=np.arange(11) // 4).n_units == 3


@pytest.mark.parametrize("value", [2, 0.5, np.nan, -1, 255])
@pytest.mark.parametrize("chunk", [None, 4])
def test_a_mask_holds_0_and_1_only(tmp_path: Path, value: float, chunk: int | None) -> None:
    mask = arrays()["mask"].astype(float)
    mask[9, 0, 2, 2] = value
    given: Any = arrays()
    if chunk is not None:
        given = on_disk(tmp_path / "a", chunk)
        mask = zarr.open_group(tmp_path / "b", mode="w").create_array("mask", data=mask, chunks=(chunk, 1, 5, 4))
    images = LabelledBounds(**given | {"mask": mask})
    for look in (images.count_evaluated, lambda: list(images.blocks(60))):
        with pytest.raises(DataError, match="mask has values other than 0 and 1 in images"):
            look()


def test_a_mask_of_truth_values_will_do() -> None:
    np.testing.assert_array_equal(evaluated(np.array([True, False]), 0), [True, False])
    np.testing.assert_array_equal(evaluated(np.array([1.0, 0.0]), 0), [True, False])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("upper", np.zeros((11, 3, 5, 5)), "upper has shape"),
        ("target", np.zeros((10, 3, 5, 4)), "target has shape"),
        ("mask", np.ones((11, 2, 5, 4)), "mask has shape"),
        ("mask", np.ones((11, 5, 4)), "mask has shape"),
        ("weights", np.ones((1, 1, 5, 4)), "weights has shape"),
        ("groups", np.arange(10), "groups has shape"),
        ("groups", np.zeros((11, 1)), "groups has shape"),
    ],
)
def test_shapes_are_checked_at_once(name: str, value: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        LabelledBounds(**arrays() | {name: value})


def test_no_image_or_no_pixel_is_refused() -> None:
    for shape in ((0, 3, 5, 4), (11, 3, 0, 4), ()):
        with pytest.raises(ShapeError, match="at least one image"):
            LabelledBounds(np.zeros(shape), np.zeros(shape), np.zeros(shape))


def test_blocks_of_any_arrays_keep_together_what_belongs_together() -> None:
    given = {"values": np.arange(22).reshape(11, 2), "mask": None, "other": np.arange(11)}
    read = list(read_blocks(given, 6, slices_to_read(given.values())))
    assert [rows for rows, _ in read] == [slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 11)]
    assert all(parts["mask"] is None and (parts["values"][:, 0] == 2 * parts["other"]).all() for _, parts in read)
