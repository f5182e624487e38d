"""Made-up portraits in two populations, drawn from scratch: unlimited data with nobody's face in it."""

from conffusion.demo.populations import POPULATIONS
from conffusion.demo.render import render_faces

__all__ = ["POPULATIONS", "render_faces"]
