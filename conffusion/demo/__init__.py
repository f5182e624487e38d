"""Procedural portraits in two populations: any number of images, none of a real person."""

from conffusion.demo.populations import POPULATIONS
from conffusion.demo.render import render_faces

__all__ = ["POPULATIONS", "render_faces"]
