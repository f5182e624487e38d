"""Reference of the Python interface: one page per public module, which Sphinx fills from the docstrings."""

# Public modules below `conffusion`, in the order of the navigation.
MODULES = (
    "inference.predictor",
    "inference.interval",
    "inference.calibrated_model",
    "contrib.adapters",
    "inference.model_file",
    "inference.package",
    "inference.evidence",
    "inference.from_run",
    "calibration",
    "metrics",
    "evaluation.diagnostics",
    "evaluation.drift",
    "losses",
    "bounds",
    "models",
    "sampling",
    "errors",
)


def python_pages() -> dict[str, str]:
    """reStructuredText of every page, by file name."""
    return {f"{name}.rst": _page(f"conffusion.{name}") for name in MODULES}


def _page(module: str) -> str:
    return f"{module}\n{'=' * len(module)}\n\n.. automodule:: {module}\n   :members:\n   :special-members: __call__\n"
