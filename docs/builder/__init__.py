"""The documentation site: `python -m docs.builder FOLDER` (what `make docs` calls)."""
