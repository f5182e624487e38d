"""Build the site: `python -m docs.builder FOLDER`; exits with 1 after any warning."""

import argparse
import sys
import tempfile
from pathlib import Path

from docs.builder.staging import stage

# The pages lie below docs/, as in the repository; the site starts one level higher.
START = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>conffusion</title>
<meta http-equiv="refresh" content="0; url=docs/index.html"></head>
<body><p><a href="docs/index.html">conffusion</a></p></body></html>
"""


def main() -> int:
    """Stage the pages in a temporary folder and have Sphinx turn them into HTML."""
    parser = argparse.ArgumentParser(prog="python -m docs.builder", description="Build the documentation site.")
    parser.add_argument("folder", type=Path, help="where the site goes; index.html is its start")
    folder = parser.parse_args().folder
    from sphinx.cmd.build import main as sphinx

    with tempfile.TemporaryDirectory() as scratch:
        stage(Path(scratch, "source"))
        status: int = sphinx(
            ["--fail-on-warning", "--keep-going", "--quiet", "--fresh-env", "--doctree-dir", f"{scratch}/doctrees"]
            + ["--conf-dir", str(Path(__file__).parent), f"{scratch}/source", str(folder)]
        )
    if status == 0:
        (folder / "index.html").write_text(START, encoding="utf-8")
        print(f"{folder}/index.html")
    return status


if __name__ == "__main__":
    sys.exit(main())
