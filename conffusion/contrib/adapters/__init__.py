"""Restoration models of other libraries as callables that `conffusion.CalibratedModel` takes; see docs/python.md."""

from conffusion.contrib.adapters.deepinv_reconstructors import from_deepinv
from conffusion.contrib.adapters.diffusers_pipelines import from_diffusers

__all__ = ["from_deepinv", "from_diffusers"]
