"""Versions of what made a run."""

import platform
from importlib.metadata import version

from conffusion import __version__

_PACKAGES = ("torch", "numpy", "scipy", "zarr", "pandas", "matplotlib", "pillow", "snakemake")


def versions() -> dict[str, str]:
    """Name to version: conffusion, Python and the packages that numbers depend on."""
    return {
        "conffusion": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }
