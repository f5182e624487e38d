"""The documentation site: what is generated for it, and the site itself."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from conffusion.cli import COMMANDS, make_parser
from docs.builder.command_line_page import command_line_page, commands
from docs.builder.commented_yaml import read_entries
from docs.builder.configuration_page import ANY_NAME, configuration_page, in_words, schema_keys
from docs.builder.docstrings import to_rst
from docs.builder.python_pages import python_pages
from docs.builder.staging import PAGES, ROOT, with_navigation

YAML = """
# About the file.

name: default   # a word
# What it is for.
size: [1,
       2]       # of both,
                # in pixels
section:        # a part
  inner: &it {a: 1}
  # no comment of the next key: it stands too far left of it
    # nor this
  alias: *it
"""


def test_comments_of_a_yaml_file_belong_to_their_keys() -> None:
    entries = {".".join(entry.path): (entry.value, entry.comment) for entry in read_entries(YAML)}
    assert entries == {
        "name": ("default", "a word"),
        "size": ("[1, 2]", "What it is for. of both, in pixels"),
        "section": ("", "a part"),
        "section.inner": ("&it {a: 1}", ""),
        "section.inner.a": ("1", ""),
        "section.alias": ("", ""),
    }


def test_types_in_words() -> None:
    assert in_words({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}) == "number > 0 and < 1"
    assert in_words({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}) == "whole number ≥ 1, or `null`"
    assert (
        in_words({"type": "array", "prefixItems": [{"type": "number"}, {"type": "integer"}]})
        == "[number, whole number]"
    )
    assert in_words({"type": "array", "items": {"enum": ["a", "b"]}}) == "list of `a` | `b`"


def rows() -> dict[str, list[str]]:
    """Cells of the configuration page, by key."""
    page = configuration_page(ROOT / "config.yaml")
    lines = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in page.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[1:] for cells in lines}


def test_configuration_page_has_every_key_with_its_type() -> None:
    shown = {re.sub(r"<\w+>", ANY_NAME, key): cells for key, cells in rows().items()}
    for key in schema_keys():
        if key.type:
            assert shown[".".join(key.path)][0] == key.type.replace("|", r"\|")


def test_configuration_page_takes_defaults_and_meanings_from_the_file() -> None:
    shown = rows()
    assert shown["calibration.alpha"][:2] == ["number > 0 and < 1", "`0.1`"]
    assert shown["calibration.alpha"][2].startswith("risk level: ")
    assert shown["tasks.inpainting.degradation.hole"][1] == "`0.5`"
    assert "(../s3.md)" in shown["sampling.variants_url"][2]


def test_every_key_of_the_configuration_has_a_comment_or_is_in_a_section_that_has() -> None:
    commented = {entry.path for entry in read_entries((ROOT / "config.yaml").read_text()) if entry.comment}

    def explained(path: tuple[str, ...]) -> bool:
        return any(
            len(path) == len(one) and all(a in (ANY_NAME, b) for a, b in zip(path, one, strict=True))
            for one in commented
        )

    bare = [key.path for key in schema_keys() if key.type and not any(explained(key.path[:i]) for i in range(1, 9))]
    assert not bare, f"config.yaml has no comment on {bare}"


def test_command_line_page_shows_every_command() -> None:
    parsers = commands(make_parser())
    assert len(parsers) >= len(COMMANDS)
    page = command_line_page()
    for name in parsers:
        assert f"## `conffusion {name}`" in page and f"usage: conffusion {name} " in page


def test_navigation_follows_the_lists_of_the_start_page() -> None:
    index = (
        "# Title\n\n## Start\n\n* [Overview](../README.md): all\n* [Elsewhere](a.md#part): not a page\n\n## Reference\n"
    )
    navigation = with_navigation(index, ["drift.rst"]).removeprefix(index)
    assert "Overview <../README>\n" in navigation and "part" not in navigation
    assert navigation.rstrip().endswith(":caption: Reference\n\nreference/drift\n```")


def test_docstrings_keep_what_they_say_as_restructured_text() -> None:
    docstring = [
        "Takes *args and `lambda_`, a `Calibration`",
        "or `one",
        "or two`; a | b, name_ too.",
        "- first",
        "  line",
        "- two",
    ]
    assert to_rst(docstring) == [
        r"Takes \*args and ``lambda_``, a `Calibration`",
        "or ``one",
        r"or two``; a \| b, name\_ too.",
        "",
        "- first",
        "  line",
        "- two",
    ]


def test_examples_in_docstrings_stay_as_they_are() -> None:
    example = ["    >>> image = noise((10, *shape))  # a `name_` | b", "    ... + 1", "    3"]
    assert to_rst(example) == example


class Assets(HTMLParser):
    """What a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = {"link": "href", "script": "src", "img": "src", "source": "src", "iframe": "src", "video": "src"}
        self.found += [value for name, value in attributes if name == names.get(tag) and value]


@pytest.mark.system
@pytest.mark.skipif(not find_spec("sphinx"), reason="needs Sphinx: make docs")
def test_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    run = subprocess.run(
        [sys.executable, "-m", "docs.builder", site], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr

    html = {page.relative_to(site).as_posix(): page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    wanted = [*PAGES, *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
    wanted += [f"docs/reference/{name}" for name in ("configuration.md", "command_line.md", *python_pages())]
    assert {Path(page).with_suffix(".html").as_posix() for page in wanted} <= html.keys()
    assert "calibration.alpha" in html["docs/reference/configuration.html"]
    assert 'id="conffusion.calibration.calibrate"' in html["docs/reference/calibration.html"]

    for page, source in html.items():
        assets = Assets()
        assets.feed(source)
        for asset in assets.found:
            assert not re.match(r"(https?:)?//", asset), f"{page} loads {asset}"
            if not asset.startswith(("data:", "#")):
                assert (site / page).parent.joinpath(asset.split("?")[0].split("#")[0]).exists(), (
                    f"{page} lacks {asset}"
                )
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet
