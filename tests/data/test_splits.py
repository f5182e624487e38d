from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conffusion.data.splits import SPLITS, assign_splits, check_disjoint, has_groups, read_splits, write_splits
from conffusion.errors import ConfigError, DataError

PAPER = {"finetune": 1000, "selection": 200, "calibration": 200, "test": 800}


def make_table(group_sizes: list[int]) -> pd.DataFrame:
    """Images of groups with those sizes; groups of one image bear its name."""
    rows = []
    for g, size in enumerate(group_sizes):
        for k in range(size):
            image_id = f"g{g:04d}_{k}.png"
            rows.append((image_id, image_id if size == 1 else f"g{g:04d}", "here"))
    return pd.DataFrame(rows, columns=["image_id", "group", "source"], dtype=str)


def test_counts_are_exact_without_groups() -> None:
    splits = assign_splits(make_table([1] * 2300), PAPER, seed=3)
    assert splits["split"].value_counts().to_dict() == PAPER
    assert list(splits["split"].unique()) == list(SPLITS)
    assert splits["image_id"].is_unique
    for _, part in splits.groupby("split"):
        assert part["image_id"].is_monotonic_increasing


def test_assignment_depends_on_seed_not_on_row_order() -> None:
    table = make_table([2] * 60)
    sizes = {"calibration": 40, "test": 40}
    splits = assign_splits(table, sizes, seed=1)
    pd.testing.assert_frame_equal(assign_splits(table.iloc[::-1], sizes, seed=1), splits)
    assert not assign_splits(table, sizes, seed=2).equals(splits)


group_sizes = st.lists(st.integers(1, 7), min_size=8, max_size=60)
share_lists = st.lists(st.floats(0.13, 0.25), min_size=4, max_size=4)


@given(group_sizes=group_sizes, shares=share_lists, seed=st.integers(0, 99))
def test_groups_never_cross_splits_by_share(group_sizes: list[int], shares: list[float], seed: int) -> None:
    table = make_table(group_sizes)
    sizes = dict(zip(SPLITS, shares, strict=True))
    splits = assign_splits(table, sizes, seed)
    assert (splits.groupby("group")["split"].nunique() == 1).all()
    n_groups = splits.groupby("split")["group"].nunique()
    for split, share in sizes.items():
        assert abs(n_groups[split] - share * len(group_sizes)) <= 1
    whole = splits.groupby("group").size()
    assert (whole == table.groupby("group").size()[whole.index]).all()


@given(group_sizes=group_sizes, counts=st.lists(st.integers(1, 12), min_size=4, max_size=4), seed=st.integers(0, 99))
def test_groups_never_cross_splits_by_count(group_sizes: list[int], counts: list[int], seed: int) -> None:
    table = make_table(group_sizes)
    sizes = dict(zip(SPLITS, counts, strict=True))
    try:
        splits = assign_splits(table, sizes, seed)
    except DataError as error:
        assert "cannot be filled" in str(error)
        assert sum(group_sizes) < sum(counts) + 4 * max(group_sizes)
        return
    assert (splits.groupby("group")["split"].nunique() == 1).all()
    n_images = splits["split"].value_counts()
    for split, count in sizes.items():
        assert count <= n_images[split] < count + max(group_sizes)


def test_shares_that_add_up_to_one_use_every_image() -> None:
    splits = assign_splits(make_table([3] * 70), dict.fromkeys(SPLITS, 0.25), seed=0)
    assert len(splits) == 210


def test_whether_a_table_has_groups() -> None:
    assert has_groups(make_table([1, 2]))
    assert not has_groups(make_table([1, 1]))


def test_some_splits_may_be_left_out() -> None:
    assert set(assign_splits(make_table([1] * 10), {"test": 4, "calibration": 6}, 0)["split"]) == {
        "calibration",
        "test",
    }


def test_too_few_images() -> None:
    with pytest.raises(DataError, match="'calibration' cannot be filled: 2200 images are needed.*1300 images"):
        assign_splits(make_table([1] * 1300), PAPER, seed=0)
    with pytest.raises(DataError, match="whole groups only.*20 images in 2 groups"):
        assign_splits(make_table([10, 10]), {"selection": 1, "calibration": 1, "test": 1}, seed=0)


def test_empty_split() -> None:
    with pytest.raises(
        DataError, match="'selection' would be empty: 0.01 of 20 groups.*raise dataset.splits.selection"
    ):
        assign_splits(make_table([5] * 20), {"finetune": 0.5, "selection": 0.01, "test": 0.4}, seed=0)
    with pytest.raises(DataError, match="'test' would be empty: set dataset.splits.test above 0"):
        assign_splits(make_table([1] * 20), {"finetune": 5, "test": 0}, seed=0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tests": 4}, "unknown split; did you mean 'test'"),
        ({"test": -1}, "must be a count"),
        ({"test": "many"}, "must be a count"),
        ({"test": 4, "calibration": 0.5}, "for all"),
        ({"test": 0.7, "calibration": 0.5}, "add up to 1.2"),
        ({}, "for all"),
    ],
)
def test_sizes_are_checked(sizes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assign_splits(make_table([1] * 20), sizes, seed=0)


def test_repeated_images_are_refused() -> None:
    table = pd.concat([make_table([1] * 5)] * 2)
    with pytest.raises(DataError, match=r"'g0000_0\.png' occurs twice"):
        assign_splits(table, {"test": 3}, seed=0)


def test_csv_round_trip(tmp_path: Path) -> None:
    table = make_table([2, 1, 3, 1, 2, 2])
    table.loc[1, "source"] = "été, 1"
    table["group"] = table["group"].replace("g0000", "NA")
    splits = assign_splits(table, {"calibration": 4, "test": 4}, seed=0)
    path = tmp_path / "results" / "splits.csv"
    write_splits(splits, path)
    assert path.read_text().splitlines()[0] == "image_id,group,source,split"
    assert read_splits(path).to_numpy().tolist() == splits.to_numpy().tolist()
    assert np.isin("NA", read_splits(path)["group"])


def test_damaged_csv(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    with pytest.raises(DataError, match=r"splits\.csv: cannot be read"):
        read_splits(path)
    path.write_text("image_id,group,split\na,a,test\n")
    with pytest.raises(DataError, match="lacks the column 'source'"):
        read_splits(path)
    path.write_text("image_id,group,source,split\na,a,s,tset\n")
    with pytest.raises(DataError, match="split 'tset' is unknown; did you mean 'test'"):
        read_splits(path)
    path.write_text("image_id,group,source,split\na,p1,s,test\nb,p1,s,calibration\n")
    with pytest.raises(DataError, match=r"splits\.csv: group 'p1' is in the splits calibration, test"):
        read_splits(path)


def test_overlap_is_never_written(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": ["a", "a"], "group": ["a", "a"], "source": "s", "split": ["test", "selection"]})
    with pytest.raises(DataError, match="'a' occurs twice"):
        write_splits(table, tmp_path / "splits.csv")
    with pytest.raises(DataError, match="'a' occurs twice"):
        check_disjoint(table)
    assert not list(tmp_path.iterdir())
