"""The sources of the site, laid out as they lie in the repository, so that every relative link holds in both."""

import re
import shutil
from pathlib import Path

from docs.builder.command_line_page import command_line_page
from docs.builder.configuration_page import configuration_page
from docs.builder.python_pages import python_pages

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "results/README.md", "envs/README.md")
FILES = ("config.yaml", "config", "CITATION.cff", "LICENSE", "profiles", "docs/figures")


def stage(folder: Path) -> None:
    """Fill `folder` with the pages of the repository and those that are generated from the code."""
    for name in (*PAGES, *FILES, *(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md"))):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
    reference = {"configuration.md": configuration_page(ROOT / "config.yaml"), "command_line.md": command_line_page()}
    reference |= python_pages()
    (folder / "docs" / "reference").mkdir()
    for name, text in reference.items():
        (folder / "docs" / "reference" / name).write_text(text, encoding="utf-8")
    index = folder / "docs" / "index.md"
    index.write_text(with_navigation(index.read_text(encoding="utf-8"), list(reference)), encoding="utf-8")


def with_navigation(index: str, reference: list[str]) -> str:
    """The start page with the navigation of the site: its own headings and lists of links, and the reference.

    Args:
        index: Text of docs/index.md.
        reference: File names of the generated pages.
    """
    parts = []
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        caption = section.splitlines()[0]
        links = re.findall(r"^\* \[([^\]]+)\]\(([^)#]+\.md)\)", section, flags=re.MULTILINE)
        entries = [f"{title} <{path.removesuffix('.md')}>" for title, path in links]
        if caption == "Reference":
            entries += [f"reference/{Path(name).stem}" for name in reference]
        if entries:
            parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```"]))
    return "\n\n".join([index, *parts]) + "\n"
