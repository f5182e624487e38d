"""Made-up portraits in two populations, drawn from scratch: unlimited data with nobody's face in it."""

from conffusion.data.faces.populations import POPULATIONS
from conffusion.data.faces.render import render_faces

__all__ = ["POPULATIONS", "render_faces"]
