"""Stores written block by block: the same as at one go, and nothing unless all of it came."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conffusion.errors import StoreError
from conffusion.store import ArraySpec, blocks, new_store, open_store, read_array, write_store
from conffusion.store.writer import BYTES_PER_SHARD, ROWS_PER_SHARD, rows_per_shard

N_ROWS = 2 * ROWS_PER_SHARD + 5
IDS = [f"image-{k}" for k in range(N_ROWS)]
LAYOUT = {"values": ArraySpec((2, 3), np.float32), "flags": ArraySpec((), np.uint8)}


def arrays(rows: slice = slice(None)) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    values, flags = generator.random((N_ROWS, 2, 3), dtype=np.float32), np.arange(N_ROWS, dtype=np.uint8)
    return {"values": values[rows], "flags": flags[rows]}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, N_ROWS), max_size=8).map(sorted))
def test_blocks_of_any_size_give_the_same_files(cuts: list[int], tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.zarr", tmp_path / "parts.zarr"
    write_store(whole, arrays(), IDS, {"seed": 3})
    with new_store(path, LAYOUT, IDS, {"seed": 3}) as writer:
        for start, stop in zip([0, *cuts], [*cuts, N_ROWS], strict=True):
            writer.append(arrays(slice(start, stop)))
    assert open_store(path).image_ids == tuple(IDS)
    files = {file.relative_to(whole): file.read_bytes() for file in whole.rglob("*") if file.is_file()}
    assert files == {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_rows_may_be_overwritten_by_their_maker(tmp_path: Path) -> None:
    """A buffer that is used again for the next rows, as a device copies into."""
    block = np.empty((1, 4), np.float32)
    with new_store(tmp_path / "a", {"values": ArraySpec((4,), np.float32)}, IDS, {}) as writer:
        for k in range(N_ROWS):
            block[:] = k
            writer.append({"values": block})
    values = read_array(open_store(tmp_path / "a")["values"])
    np.testing.assert_array_equal(values, np.repeat(np.arange(N_ROWS), 4).reshape(N_ROWS, 4))


def test_attributes_may_come_last(tmp_path: Path) -> None:
    with new_store(tmp_path / "a.json", LAYOUT, IDS, {"seed": 3}) as writer:
        writer.append(arrays())
        writer.attributes["seconds_per_image"] = 0.5
    expected = {"seed": 3, "seconds_per_image": 0.5}
    assert dict(open_store(tmp_path / "a").attributes) == expected
    assert dict(zarr.open_group(str(tmp_path / "a.zarr"), mode="r").attrs) == expected


def test_missing_rows_leave_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match=rf"a\.zarr: {N_ROWS - 1} rows for {N_ROWS} image ids; nothing of it was kept"),
        new_store(tmp_path / "a", LAYOUT, IDS, {}) as writer,
    ):
        writer.append(arrays(slice(1, None)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_interrupted_maker_leaves_nothing_and_no_older_store(error: type[BaseException], tmp_path: Path) -> None:
    write_store(tmp_path / "a", arrays(), IDS, {})
    with pytest.raises(error), new_store(tmp_path / "a", LAYOUT, IDS, {}) as writer:
        writer.append(arrays(slice(0, N_ROWS - 1)))
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"values": np.zeros((1, 2, 3), np.float32)}, "rows of values came where values, flags are needed"),
        ({**arrays(), "more": np.zeros(N_ROWS)}, "rows of values, flags, more came where"),
        (
            {**arrays(), "flags": np.zeros(3, np.uint8)},
            rf"\'flags\' are uint8 of shape \(3,\), not uint8 of shape \({N_ROWS},\)",
        ),
        (
            {**arrays(), "values": np.zeros((N_ROWS, 3, 2), np.float32)},
            r"\'values\' are float32 of shape \(133, 3, 2\), not",
        ),
        ({**arrays(), "values": np.zeros((N_ROWS, 2, 3))}, r"\'values\' are float64 of shape .*, not float32"),
        ({name: np.concatenate([array, array]) for name, array in arrays().items()}, "266 rows for 133 image ids"),
    ],
)
def test_rows_of_another_form_are_refused(rows: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=message), new_store(tmp_path / "a", LAYOUT, IDS, {}) as writer:
        writer.append(rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("layout", "ids"), [({}, IDS), (LAYOUT, [])])
def test_nothing_is_no_store(layout: dict[str, ArraySpec], ids: list[str], tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match="at least one image and one array"),
        new_store(tmp_path / "a", layout, ids, {}),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((3, 32, 32), "float32", 64),
        ((200, 3, 256, 256), "uint8", 6),
        ((200, 3, 512, 512), "float32", 1),
        ((), "uint8", 64),
    ],
)
def test_shards_are_bounded_in_rows_and_bytes(shape: tuple[int, ...], dtype: str, expected: int) -> None:
    layout = {"a": ArraySpec(shape, dtype)}
    assert rows_per_shard(layout) == expected
    assert expected == 1 or expected * layout["a"].row_bytes <= BYTES_PER_SHARD
    assert rows_per_shard({**layout, "b": layout["a"]}) == max(1, min(64, expected // 2 if expected < 64 else 64))


def test_memory_is_bounded_however_many_rows_come(tmp_path: Path) -> None:
    """40 MB of rows in shards of 4 MB: two shards in memory, and what one is encoded to."""
    n_rows, row = 10 * ROWS_PER_SHARD, np.random.default_rng(0).random((1, 128, 128), dtype=np.float32)
    with new_store(tmp_path / "a", {"a": ArraySpec((128, 128), np.float32)}, IDS[:1] * n_rows, {}) as writer:
        tracemalloc.start()
        for _ in range(n_rows):
            writer.append({"a": row})
        written = tracemalloc.get_traced_memory()[1]
    store = open_store(tmp_path / "a")
    tracemalloc.reset_peak()
    assert sum(len(block) for block in blocks(store["a"])) == n_rows
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 4e6 < written < 20e6
    assert 4e6 < read < 20e6


@pytest.mark.parametrize("rows", [None, 1, 7, N_ROWS, N_ROWS + 1])
def test_blocks_are_all_rows_in_order(rows: int | None, tmp_path: Path) -> None:
    write_store(tmp_path / "a", arrays(), IDS, {})
    parts = list(blocks(open_store(tmp_path / "a")["values"], rows))
    assert {len(part) for part in parts[:-1]} <= {rows or ROWS_PER_SHARD}
    np.testing.assert_array_equal(np.concatenate(parts), arrays()["values"])


def test_file_that_vanishes_after_opening_is_no_zeros(tmp_path: Path) -> None:
    write_store(tmp_path / "a", arrays(), IDS, {})
    store = open_store(tmp_path / "a")
    (tmp_path / "a.zarr" / "values" / "c" / "1" / "0" / "0").unlink()
    np.testing.assert_array_equal(read_array(store["values"], slice(0, 64)), arrays()["values"][:64])
    with pytest.raises(StoreError, match="has vanished"):
        read_array(store["values"], slice(64, 65))
