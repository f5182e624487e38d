"""The documentation in the repository: its code runs as it is written, its links lead somewhere, its facts agree."""

import doctest
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from conffusion import __version__
from conffusion.cli import make_parser
from conffusion.config.load import RENAMED_KEYS
from conffusion.inference.model_file import write_package
from conffusion.tasks import build_task
from tests.inference.small_package import small_package

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "envs/*.md", "results/*.md")
    for page in ROOT.glob(pattern)
)
NEED_A_RUN = {"docs/how_it_works.md", "docs/real_photographs.md", "results/README.md"}  # read results or photographs


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text(page), flags=re.MULTILINE | re.DOTALL)


def test_snippets_of_the_page_on_the_guarantee_run() -> None:
    names: dict[str, object] = {}
    for block in blocks("docs/guarantee.md"):
        exec(block, names)
    assert names["by_patient"].n == 100 and names["by_patient"].unit == "group"
    assert names["narrow"].risk_ucb <= 0.1 and names["narrow"].n == 200
    assert len(names["joint"].parts) == 5
    assert names["drift"].p_value < 0.01
    assert names["new_lower"].shape == (5, 3, 16, 16)


def test_snippet_of_the_readme_runs() -> None:
    target = np.random.default_rng(0).random((60, 1, 4, 4))
    names = {"lower": target - 0.1, "upper": target + 0.1, "truth": target}
    names |= {"new_lower": names["lower"], "new_upper": names["upper"]}
    snippet = [block for block in blocks("README.md") if "conffusion.calibration" in block]
    assert len(snippet) == 1
    exec(snippet[0], names)
    assert names["calibration"].lambda_hat < 1


def test_snippet_of_the_quick_start_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = blocks("docs/quick_start.md")
    exec(snippet, {})
    shown = re.search(r"^```text\n(.*?)^```", text("docs/quick_start.md"), flags=re.MULTILINE | re.DOTALL)
    assert shown and capsys.readouterr().out == shown[1]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package that enlarges by 4, a photograph and its truth."""
    write_package(small_package(tmp_path), tmp_path / "faces.conffusion", "No licence.")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "truth.png")
    Image.fromarray(pixels[::4, ::4]).save(tmp_path / "photograph.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_snippets_of_the_page_on_python_run(workplace: Path) -> None:
    names: dict[str, Any] = {}
    for block in blocks("docs/python.md"):
        if "conffusion.contrib.adapters" not in block:  # tests/adapters runs those
            exec(block, names)
    assert names["inside"].shape == (3, 24, 20)
    assert names["calibrator"].score(names["lower"], names["upper"], names["target"]) > 0.9
    assert set(names["chosen"].family_sizes_) == {"multiplicative", "additive", "interval"}
    assert names["calibrated"].calibration.n == 40 and "controlled" in names["evaluation"].verdict
    assert (workplace / "denoiser.safetensors").is_file()


@pytest.mark.parametrize(
    "module",
    ["calibration.estimator", "inference.calibrated_model", "inference.interval", "inference.predictor"],
)
def test_examples_in_docstrings_run(workplace: Path, module: str) -> None:
    result = doctest.testmod(import_module(f"conffusion.{module}"))
    assert result.attempted > 3 and result.failed == 0


def test_snippets_of_every_page_are_run() -> None:
    pages = {page for page in PAGES if blocks(page)}
    run = {"README.md", "docs/guarantee.md", "docs/own_images.md", "docs/python.md", "docs/quick_start.md"}
    run |= {"docs/deployment.md"}  # tests/contrib/onnx/test_onnx_file.py
    assert pages == run | NEED_A_RUN


def commands(page: str) -> Iterator[list[str]]:
    """Arguments of every `conffusion ...` in the shell blocks of a page."""
    for block in re.findall(r"^```sh\n(.*?)^```", text(page), flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and Path(words[0]).name == "conffusion":
                yield words[1:]


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))])
def test_commands_of_the_pages_are_understood(page: str) -> None:
    parser = make_parser()
    for arguments in commands(page):
        try:
            parser.parse_args(arguments)
        except SystemExit as end:
            assert end.code == 0, f"conffusion {shlex.join(arguments)}: is not understood"  # 0: --help


def test_the_tutorial_shows_every_command_for_own_images() -> None:
    shown = {arguments[0] for arguments in commands("docs/own_images.md")}
    assert {"package", "predict", "calibrate", "evaluate", "finetune", "view", "export"} <= shown


def test_function_of_the_tutorial_corrupts_images(tmp_path: Path) -> None:
    (snippet,) = [block for block in blocks("docs/own_images.md") if "low_light" in block]
    (tmp_path / "microscope.py").write_text(snippet)
    target = np.random.default_rng(0).random((2, 3, 16, 16)).astype(np.float32)
    task = build_task("custom", function=f"{tmp_path}/microscope.py:low_light")
    noisy, _ = task.apply(target, ["a", "b"], seed=1)
    assert 0.02 < np.abs(noisy - target).mean() < 0.2


def links(page: str) -> Iterator[str]:
    """Relative links of a page, outside its code."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and the site make them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        found.add(
            slug if slug not in found else next(f"{slug}-{i}" for i in range(1, 99) if f"{slug}-{i}" not in found)
        )
    return found


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page} links to {link}, which does not exist"
        assert not anchor or anchor in anchors(target), f"{page} links to {link}, which is no heading there"


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_the_repository_exist(page: str) -> None:
    for path in re.findall(r"`((?:conffusion|tests|docs|rules|config|profiles|benchmarks)/[\w./-]+)`", text(page)):
        assert (ROOT / path).exists(), f"{page} names {path}, which does not exist"


def test_changelog_lists_the_renamed_keys() -> None:
    listed = dict(re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", text("CHANGELOG.md"), flags=re.MULTILINE))
    assert RENAMED_KEYS.items() <= listed.items()


def test_start_page_lists_every_page() -> None:
    listed = {((ROOT / "docs") / link).resolve().relative_to(ROOT).as_posix() for link in links("docs/index.md")}
    assert {page for page in PAGES if page != "docs/index.md"} <= listed


def test_table_of_the_package_layout_shows_the_import_contract() -> None:
    contracts = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    contract = [set(re.findall(r"\w+", layer)) for layer in reversed(layers)]

    shown: dict[int, set[str]] = {}
    for layer, rooms in re.findall(r"^\| (\d+) \| ([^|]+) \|", text("CONTRIBUTING.md"), flags=re.MULTILINE):
        shown.setdefault(int(layer), set()).update(re.findall(r"`(\w+)`", rooms))
    assert [shown[layer] for layer in sorted(shown)] == contract


def test_citation_names_this_version_and_the_paper() -> None:
    record = yaml.safe_load(text("CITATION.cff"))
    assert record["cff-version"] == "1.2.0" and {"message", "title", "authors", "license"} <= record.keys()
    assert record["version"] == __version__ and f"version = {{{__version__}}}" in text("docs/citation.md")
    for entry in (record, record["preferred-citation"]):
        assert entry["title"] in text("docs/citation.md")
    assert record["preferred-citation"]["doi"] in text("docs/citation.md")


def test_changelog_starts_with_this_version() -> None:
    assert re.findall(r"^## (\d+\.\d+\.\d+)", text("CHANGELOG.md"), flags=re.MULTILINE)[0] == __version__


def test_quick_start_installs_the_pinned_torch() -> None:
    (pin,) = [line for line in tomllib.loads(text("pyproject.toml"))["project"]["dependencies"] if "torch==" in line]
    assert f"pip install {pin} " in text("docs/quick_start.md")
