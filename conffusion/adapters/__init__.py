"""Restoration models of other libraries as callables that `conffusion.CalibratedModel` takes; see docs/python.md."""

from conffusion.adapters.deepinv_reconstructors import from_deepinv
from conffusion.adapters.diffusers_pipelines import from_diffusers

__all__ = ["from_deepinv", "from_diffusers"]
