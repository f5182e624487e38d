"""Which images belong together: a person, a scanner, a photograph. By a pattern in their paths, or by a table."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from conffusion.errors import ConfigError, DataError


def groups_by_pattern(
    files: Sequence[str], expression: str, describe: Callable[[str], str], *, key: str, remedy: str
) -> dict[str, str]:
    """Group of each file: what the part named `group` of the expression, or else its first one, finds in the path.

    Args:
        files: Paths with `/`.
        expression: Regular expression, searched in each path.
        describe: What to call a file in messages.
        key: What the user calls the expression, likewise.
        remedy: What to do where it finds nothing, likewise.
    Raises:
        ConfigError: If the expression is none, or has no part in brackets.
        DataError: If it finds no group in a path.
    """
    pattern = compile_pattern(unicodedata.normalize("NFC", expression), key)
    part = "group" if "group" in pattern.groupindex else 1
    groups = {}
    for file in files:
        match = pattern.search(unicodedata.normalize("NFC", file))  # names with accents have two spellings
        group = match.group(part) if match else None
        if not group:
            raise DataError(f"{describe(file)}: {key} = {expression!r} finds no group in {file!r}; {remedy}")
        groups[file] = group
    return groups


def groups_by_table(files: Sequence[str], csv: str | Path, below: object) -> dict[str, str]:
    """Group of each file by a CSV with the columns file and group; further rows are allowed.

    Args:
        files: Paths with `/`.
        csv: The table.
        below: What the paths in it are relative to, for messages.
    Raises:
        DataError: If the table is unreadable, lists a file twice, or gives no group for one.
    """
    rows = read_text_table(csv, ("file", "group"))
    rows["file"] = rows["file"].str.normalize("NFC")
    if rows["file"].duplicated().any():
        twice = rows.loc[rows["file"].duplicated(), "file"].iloc[0]
        raise DataError(f"{csv}: lists the file {twice!r} twice; keep one row")
    groups = dict(zip(rows["file"], rows["group"], strict=True))
    found = {file: groups.get(unicodedata.normalize("NFC", file)) for file in files}
    missing = [file for file, group in found.items() if not group]
    if missing:
        raise DataError(
            f"{csv}: gives no group for {missing[0]!r} ({len(missing)} files in all); add rows with the path below "
            f"{below} in the column file"
        )
    return {file: group for file, group in found.items() if group}


def compile_pattern(expression: str, key: str) -> re.Pattern[str]:
    """The expression, which must have a part in round brackets.

    Raises:
        ConfigError: If it is no regular expression or has no such part.
    """
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise ConfigError(f"{key} = {expression!r}: not a regular expression ({error})") from error
    if compiled.groups < 1:
        raise ConfigError(f"{key} = {expression!r}: needs a part in round brackets, which is the group")
    return compiled


def read_text_table(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """CSV with every cell as text, surely holding `columns`.

    Raises:
        DataError: If the file is missing, not a CSV, or lacks a column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error})") from error
    lacking = [column for column in columns if column not in table.columns]
    if lacking:
        raise DataError(f"{path}: lacks the column {lacking[0]!r}; it must have {', '.join(columns)}")
    return table
