"""Array helpers: ranges, conversions, shape checks, blocks."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from conffusion.core.arrays import as_numpy, check_same_shape, is_zarr, iterate_blocks, to_01, to_pm1
from conffusion.errors import ConffusionError, ShapeError


@given(st.floats(0, 1))
def test_ranges_map_onto_each_other(value: float) -> None:
    assert -1 <= to_pm1(value) <= 1
    assert to_01(to_pm1(value)) == pytest.approx(value, abs=1e-15)


def test_ends_of_the_ranges_are_exact_and_nothing_is_clipped() -> None:
    np.testing.assert_array_equal(to_pm1(np.array([0.0, 0.5, 1.0, 1.5])), [-1, 0, 1, 2])
    assert torch.equal(to_01(torch.tensor([-1.0, 0.0, 1.0, 3.0])), torch.tensor([0.0, 0.5, 1.0, 2.0]))


def test_mapping_leaves_its_argument_alone() -> None:
    image = np.zeros(3, dtype=np.float32)
    assert to_pm1(image).dtype == np.float32
    np.testing.assert_array_equal(image, 0)


def test_arrays_of_all_libraries_become_numpy(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    stored = zarr.create_array(str(tmp_path / "a.zarr"), data=values)
    tensor = torch.tensor(values, requires_grad=True)
    for array in (values, tensor, stored, values.tolist()):
        result = as_numpy(array)
        assert isinstance(result, np.ndarray)
        np.testing.assert_array_equal(result, values)
    assert is_zarr(stored)
    assert not any(is_zarr(array) for array in (values, tensor, values.tolist()))


def test_common_shape_ignores_what_is_absent() -> None:
    assert check_same_shape(lower=np.zeros((2, 3)), upper=torch.zeros(2, 3), mask=None) == (2, 3)


def test_different_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match=r"upper has shape \(2, 4\) but lower has \(2, 3\)") as caught:
        check_same_shape(lower=np.zeros((2, 3)), mask=None, upper=np.zeros((2, 4)))
    assert isinstance(caught.value, ConffusionError)
    assert isinstance(caught.value, ValueError)


@given(st.integers(0, 200), st.integers(1, 70))
def test_blocks_cover_all_rows_once_in_order(n_rows: int, block_rows: int) -> None:
    blocks = list(iterate_blocks(n_rows, block_rows))
    assert [row for block in blocks for row in range(n_rows)[block]] == list(range(n_rows))
    assert all(0 < block.stop - block.start <= block_rows for block in blocks)
