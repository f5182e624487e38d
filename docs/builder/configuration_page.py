"""Reference of the configuration: types from the schema, defaults and meanings from `config.yaml` and its comments."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conffusion.config.schema import Config
from docs.builder.commented_yaml import Entry, read_entries

ANY_NAME = "*"
_INTRODUCTION = """# Configuration

Every key of [config.yaml](../../config.yaml), which holds all defaults. An overlay changes a few of them:
`.venv/bin/snakemake all --cores 8 --configfile config/mine.yaml`. Single keys can be changed after `--config`, as in
`--config seed=7`. Unknown keys, wrong types and values out of range stop a run before its first job;
`.venv/bin/conffusion check --configfile config/mine.yaml` looks for them without a run. A part in angle brackets
stands for a name.
"""
_PLACEHOLDERS = {"tasks": "task", "priors": "prior", "networks": "role", "tuned": "task", "solvers": "solver"}


@dataclass(frozen=True)
class Key:
    """A key of the configuration.

    Attributes:
        path: Keys from the top down; `ANY_NAME` for a part that may be any name.
        type: What its value may be, in words; empty where further keys follow.
        free: Whether what lies below it is not in the schema.
    """

    path: tuple[str, ...]
    type: str
    free: bool = False


def configuration_page(config_file: Path) -> str:
    """Markdown: every key with its type, default and meaning."""
    entries = list(read_entries(config_file.read_text(encoding="utf-8")))
    keys = {key.path: key for key in schema_keys()}
    parts, plain = [], [key for key in keys.values() if len(key.path) == 1 and key.type]
    parts.append(f"## General\n\n{_table(plain, entries)}")
    for path, key in keys.items():
        if len(path) == 1 and not key.type:
            inside = [one for one in keys.values() if one.path[0] == path[0] and one != key]
            parts += [f"## {path[0]}", _linked(_meaning(key, entries)), _table(inside, entries)]
    return "\n\n".join(filter(None, [_INTRODUCTION, *parts])) + "\n"


def schema_keys() -> Iterator[Key]:
    """Every key of the schema, sections before what they hold."""
    schema = Config.model_json_schema()
    yield from _keys(schema, (), schema["$defs"])


def _keys(node: dict[str, Any], path: tuple[str, ...], definitions: dict[str, Any]) -> Iterator[Key]:
    for name, value in node.get("properties", {}).items():
        yield from _key(value, (*path, name), definitions)


def _key(node: dict[str, Any], path: tuple[str, ...], definitions: dict[str, Any]) -> Iterator[Key]:
    section = next((_section(option, definitions) for option in node.get("anyOf", [node]) if "$ref" in option), None)
    inner = next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties"))
    if section:
        yield Key(path, "")
        yield from _keys(section, path, definitions)
    elif inner is True:
        yield Key(path, "mapping", free=True)
    elif inner:
        yield Key(path, "")
        yield from _key(inner, (*path, ANY_NAME), definitions)
    else:
        yield Key(path, in_words(node))


def _section(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    return definitions[node["$ref"].rsplit("/", 1)[1]]


def in_words(node: dict[str, Any]) -> str:
    """A JSON schema of a plain value in words."""
    if "anyOf" in node:
        return ", or ".join(in_words(option) for option in node["anyOf"])
    if "enum" in node:
        return " | ".join(f"`{value}`" for value in node["enum"])
    if "prefixItems" in node:
        return f"[{', '.join(in_words(item) for item in node['prefixItems'])}]"
    if node["type"] == "array":
        return f"list of {in_words(node['items'])}"
    name = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "`true` or `false`",
        "null": "`null`",
    }
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {node[limit]:g}" for limit, sign in limits.items() if limit in node]
    return " ".join([name[node["type"]], " and ".join(bounds)]).strip()


def _table(keys: list[Key], entries: list[Entry]) -> str:
    rows = [row for key in keys for row in _rows(key, entries)]
    return "\n".join(["| key | value | default | meaning |", "| --- | --- | --- | --- |", *rows])


def _rows(key: Key, entries: list[Entry]) -> Iterator[str]:
    """The row of a key, and rows of entries that the file has and the schema does not name."""
    meaning = _meaning(key, entries)
    if key.type or meaning:
        yield _row(_shown(key.path), key.type, _default(key, entries), meaning)
    pattern = (*key.path, ANY_NAME) if key.free else key.path
    named = (
        [entry for entry in entries if _matches(pattern, entry.path)] if key.type and pattern[-1] == ANY_NAME else []
    )
    for entry in named:
        if entry.comment or not key.free:
            yield _row(".".join(entry.path), "", f"`{entry.value}`", entry.comment)


def _row(path: str, type_: str, default: str, meaning: str) -> str:
    cells = (f"`{path}`", type_, default, _linked(meaning))
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _shown(path: tuple[str, ...]) -> str:
    """`tasks.<task>.prior` for ("tasks", ANY_NAME, "prior")."""
    parents = ("", *path)
    parts = [f"<{_PLACEHOLDERS.get(above, 'method' if above == ANY_NAME else 'name')}>" for above in parents]
    return ".".join(parts[i] if part == ANY_NAME else part for i, part in enumerate(path))


def _matches(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    return len(pattern) == len(path) and all(want in (ANY_NAME, have) for want, have in zip(pattern, path, strict=True))


def _default(key: Key, entries: list[Entry]) -> str:
    values = {entry.value for entry in entries if _matches(key.path, entry.path)}
    if not key.type or not any(values):
        return ""
    return f"`{values.pop()}`" if len(values) == 1 else "each its own"


def _meaning(key: Key, entries: list[Entry]) -> str:
    """The comments of all entries of this key, each once; entries with a name of their own have rows of their own."""
    if key.path[-1] == ANY_NAME:
        return ""
    return " ".join(dict.fromkeys(e.comment for e in entries if _matches(key.path, e.path) and e.comment))


def _linked(comment: str) -> str:
    """Links to pages, and angle brackets that Markdown keeps."""
    return re.sub(
        r"docs/(\w+)\.md", lambda page: f"[{page[1].replace('_', ' ')}](../{page[1]}.md)", comment.replace("<", r"\<")
    )
