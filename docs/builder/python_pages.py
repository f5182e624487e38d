"""Reference of the Python interface: one page per public module, which Sphinx fills from the docstrings."""

MODULES = {
    "calibration": "Calibration",
    "metrics": "Metrics",
    "diagnostics": "Diagnostics",
    "drift": "Drift check",
    "losses": "Losses",
    "bounds": "Bounds of variants",
    "models": "Networks",
    "sampling": "Sampling",
    "errors": "Errors",
}


def python_pages() -> dict[str, str]:
    """reStructuredText of every page, by file name."""
    return {f"{name}.rst": _page(title, f"conffusion.{name}") for name, title in MODULES.items()}


def _page(title: str, module: str) -> str:
    heading = f"{title}: ``{module}``"
    return f"{heading}\n{'=' * len(heading)}\n\n.. automodule:: {module}\n   :members:\n"
