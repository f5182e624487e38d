"""Values and comments of a YAML file, key by key."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml


@dataclass(frozen=True)
class Entry:
    """A key of a YAML file.

    Attributes:
        path: Keys from the top down.
        value: The value as written; empty where further keys follow.
        comment: The comment lines directly above the key, then the one behind its value with its aligned continuation.
    """

    path: tuple[str, ...]
    value: str
    comment: str


def read_entries(text: str) -> Iterator[Entry]:
    """Every key of the mappings in block style, and of those in flow style without their comments, in order."""
    lines = text.splitlines()
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return _entries(node, (), lines, text)


def _entries(node: yaml.MappingNode, path: tuple[str, ...], lines: list[str], text: str) -> Iterator[Entry]:
    for key, value in node.value:
        here = (*path, key.value)
        alias = value.start_mark.index < key.end_mark.index
        nested = isinstance(value, yaml.MappingNode) and not alias
        plain = alias or (nested and not value.flow_style)
        end = key.end_mark if plain else value.end_mark
        written = "" if plain else " ".join(text[value.start_mark.index : value.end_mark.index].split())
        comments = [] if node.flow_style else [_above(lines, key.start_mark), _behind(lines, end)]
        yield Entry(here, written, ". ".join(" ".join(comment).rstrip(".") for comment in comments if comment))
        if nested:
            yield from _entries(value, here, lines, text)


def _above(lines: list[str], key: yaml.Mark) -> list[str]:
    found: list[str] = []
    for line in reversed(lines[: key.line]):
        comment = re.fullmatch(rf" {{{key.column}}}# ?(.*)", line)
        if not comment:
            break
        found.insert(0, comment[1])
    return found


def _behind(lines: list[str], end: yaml.Mark) -> list[str]:
    first = re.fullmatch(r"(:? *(?:[&*]\w+)? *)# ?(.*)", lines[end.line][end.column :])
    if not first:
        return []
    found, column = [first[2]], end.column + len(first[1])
    for line in lines[end.line + 1 :]:
        comment = re.fullmatch(rf" {{{column}}}# ?(.*)", line)
        if not comment:
            break
        found.append(comment[1])
    return found
