"""Which image is in which split; whole groups only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from conffusion.core.names import nearest_hint
from conffusion.core.randomness import keyed_generator
from conffusion.data.grouping import read_text_table
from conffusion.errors import ConfigError, DataError
from conffusion.store.files import write_text

SPLITS = ("finetune", "selection", "calibration", "test")
COLUMNS = ("image_id", "group", "source", "split")


def assign_splits(table: pd.DataFrame, sizes: Mapping[str, int | float], seed: int) -> pd.DataFrame:
    """Deal the groups of a dataset into splits.

    The groups are brought into a random order, which depends on the seed and the set of groups alone, and dealt from
    the front to the splits in the order of `SPLITS`. A share refers to groups: a split ends at its rounded cumulative
    share. A count refers to images: a split takes groups until it has at least that many, hence exactly that many where
    every image is its own group; groups are never cut.

    Args:
        table: Columns image_id, group and source, as from `Dataset.table`.
        sizes: For each split wanted, either image counts (int) or shares of the groups (float, sum at most 1).
        seed: Another seed gives another assignment.
    Returns:
        The rows that were dealt, with the column split, by split and image id.
    Raises:
        ConfigError: If a split is unknown, or the sizes are mixed or out of range.
        DataError: If the images do not suffice, a split would be empty, or image ids are not unique.
    """
    _check_sizes(sizes)
    _check_unique(table)
    members = table.groupby("group").size().sort_index()
    order = keyed_generator("splits", seed).permutation(len(members))
    members = members.iloc[order]
    shares = all(isinstance(size, float) for size in sizes.values())
    ends = _ends_by_share(sizes, members) if shares else _ends_by_count(sizes, members)
    split_of = _split_of_groups(members, ends)
    dealt = table.assign(split=table["group"].map(split_of)).dropna(subset=["split"])
    check_disjoint(dealt)
    rank = dealt["split"].map(SPLITS.index)
    return dealt.assign(rank=rank).sort_values(["rank", "image_id"]).drop(columns="rank").reset_index(drop=True)


def check_disjoint(table: pd.DataFrame) -> None:
    """Check that no image and no group is in two splits.

    Raises:
        DataError: Naming the first image or group that is.
    """
    _check_unique(table)
    n_splits = table.groupby("group")["split"].nunique()
    if (n_splits > 1).any():
        group = n_splits.index[n_splits > 1][0]
        where = ", ".join(sorted(table.loc[table["group"] == group, "split"].unique()))
        raise DataError(f"group {group!r} is in the splits {where}: a group must be in one; rebuild the splits")


def has_groups(table: pd.DataFrame) -> bool:
    """Whether a table groups its images, so that the group is the unit of the guarantee; else group is the image id."""
    return bool((table["group"] != table["image_id"]).any())


def write_splits(table: pd.DataFrame, path: str | Path) -> None:
    """Write the columns image_id, group, source and split as CSV; the file appears only when complete."""
    check_disjoint(table)
    write_text(path, table.loc[:, list(COLUMNS)].to_csv(index=False, lineterminator="\n"))


def read_splits(path: str | Path) -> pd.DataFrame:
    """Table written by `write_splits`, every cell as text.

    Raises:
        DataError: If the file is missing or damaged, names an unknown split, or its splits are not disjoint.
    """
    table = read_text_table(path, COLUMNS)
    unknown = sorted(set(table["split"]) - set(SPLITS))
    if unknown:
        raise DataError(f"{path}: split {unknown[0]!r} is unknown{nearest_hint(unknown[0], SPLITS)}")
    try:
        check_disjoint(table)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return table.loc[:, list(COLUMNS)]


def groups_of(splits: str | Path, image_ids: Sequence[str]) -> Any | None:
    """Group of every image, or None where every image is its own group."""
    table = read_splits(splits)
    if not has_groups(table):
        return None
    return table.set_index("image_id").loc[list(image_ids), "group"].to_numpy()


def _check_sizes(sizes: Mapping[str, int | float]) -> None:
    for split, size in sizes.items():
        if split not in SPLITS:
            raise ConfigError(f"dataset.splits.{split}: unknown split{nearest_hint(split, SPLITS)}")
        if isinstance(size, bool) or not isinstance(size, int | float) or size < 0:
            raise ConfigError(f"dataset.splits.{split} = {size!r}: must be a count of images or a share of the groups")
    floats = [split for split, size in sizes.items() if isinstance(size, float)]
    if not sizes or 0 < len(floats) < len(sizes):
        raise ConfigError("dataset.splits: give counts (whole numbers) for all splits or shares (like 0.25) for all")
    if floats and sum(sizes.values()) > 1 + 1e-9:
        raise ConfigError(f"dataset.splits: the shares add up to {sum(sizes.values()):g}; they must not exceed 1")
    for split, size in sizes.items():
        if size == 0:
            raise DataError(f"split {split!r} would be empty: set dataset.splits.{split} above 0 or leave the key out")


def _check_unique(table: pd.DataFrame) -> None:
    twice = table.loc[table["image_id"].duplicated(), "image_id"]
    if len(twice):
        raise DataError(f"image id {twice.iloc[0]!r} occurs twice: an image must be in one split; rename or remove it")


def _ends_by_share(sizes: Mapping[str, int | float], members: pd.Series) -> dict[str, int]:
    """For each split, how many groups are dealt when it is full."""
    ends: dict[str, int] = {}
    cumulative = 0.0
    for split in _in_order(sizes):
        cumulative += sizes[split]
        start, ends[split] = max(ends.values(), default=0), round(cumulative * len(members))
        if ends[split] == start:
            raise DataError(
                f"split {split!r} would be empty: {sizes[split]:g} of {len(members)} groups is less than one; "
                f"add images of further groups or raise dataset.splits.{split}"
            )
    return ends


def _ends_by_count(sizes: Mapping[str, int | float], members: pd.Series) -> dict[str, int]:
    dealt = members.cumsum().to_numpy()
    ends: dict[str, int] = {}
    n_dealt = 0
    for split in _in_order(sizes):
        end = int(dealt.searchsorted(n_dealt + sizes[split])) + 1
        if end > len(dealt):
            raise DataError(_too_few(sizes, members, split))
        ends[split], n_dealt = end, int(dealt[end - 1])
    return ends


def _too_few(sizes: Mapping[str, int | float], members: pd.Series, split: str) -> str:
    whole = " (whole groups only, so a split may take more than its count)" if len(members) < members.sum() else ""
    return (
        f"split {split!r} cannot be filled: {sum(sizes.values())} images are needed in all{whole}, but the dataset has "
        f"{members.sum()} images in {len(members)} groups; add images or lower dataset.splits"
    )


def _split_of_groups(members: pd.Series, ends: Mapping[str, int]) -> dict[str, str]:
    split_of: dict[str, str] = {}
    start = 0
    for split, end in ends.items():
        split_of.update(dict.fromkeys(members.index[start:end], split))
        start = end
    return split_of


def _in_order(sizes: Mapping[str, int | float]) -> list[str]:
    return [split for split in SPLITS if split in sizes]
