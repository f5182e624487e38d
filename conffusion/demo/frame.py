"""Coordinates of a batch of faces: the picture, the head in its pose, and the surface of the face."""

from dataclasses import dataclass

import torch
from torch import Tensor

from conffusion.demo.geometry import look_up
from conffusion.demo.traits import Traits


@dataclass(frozen=True)
class Frame:
    """Coordinate fields of N faces on an S x S canvas; y points down.

    Attributes:
        picture_x: (1, S, S) in [-1, 1] over the picture.
        picture_y: (1, S, S) in [-1, 1] over the picture.
        body_x: (N, S, S), picture coordinates about the head, upright; 1 is half the height of the head.
        body_y: (N, S, S), likewise.
        x: (N, S, S), head coordinates: crown at y = -1, chin at y = 1.
        y: (N, S, S), likewise.
        face_x: (N, S, S), position on the face as if seen from the front (yaw undone).
        face_y: (N, S, S), likewise (pitch undone).
        side: (N, S, S), |face_x|: features that come in pairs are drawn once.
        inside: (N, S, S), inner distance to the outline of the head.
        depth: (N, S, S) in [0, 1], how far the head bulges towards the viewer.
        pixel: (N, 1, 1), width of a canvas pixel in head coordinates.
    """

    picture_x: Tensor
    picture_y: Tensor
    body_x: Tensor
    body_y: Tensor
    x: Tensor
    y: Tensor
    face_x: Tensor
    face_y: Tensor
    side: Tensor
    inside: Tensor
    depth: Tensor
    pixel: Tensor


def _rotate(x: Tensor, y: Tensor, half_tangent: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates after a rotation given by the tangent of half its angle."""
    square = half_tangent * half_tangent
    cosine, sine = (1.0 - square) / (1.0 + square), 2.0 * half_tangent / (1.0 + square)
    return x * cosine + y * sine, y * cosine - x * sine


def _outline(x: Tensor, y: Tensor, traits: Traits) -> tuple[Tensor, Tensor]:
    """Position across the head (-1 and 1 on its sides) and radius (1 on its outline), each (N, S, S)."""
    below = (y + 0.05).clamp(0.0, 1.2)
    width = traits["face_width"] * (1.0 - traits["jaw"] * below * below)
    across = x / width
    down = y * y
    flat = (0.15 + 0.35 * traits["chin"]) * (y > 0)
    return across, (across * across + down * (1.0 - flat + flat * down)).sqrt_()


def make_frame(traits: Traits, size: int) -> Frame:
    """Coordinate fields of the faces of `traits` on a canvas of `size` pixels a side."""
    line = (torch.arange(size, dtype=torch.float32) + 0.5) * (2.0 / size) - 1.0
    picture_x, picture_y = line.reshape(1, 1, size), line.reshape(1, size, 1)
    full = torch.zeros(1, size, size)
    picture_x, picture_y = picture_x + full, picture_y + full
    body_x = (picture_x - traits["shift_x"]) / traits["scale"]
    body_y = (picture_y - traits["shift_y"]) / traits["scale"]
    x, y = _rotate(body_x, body_y, 0.5 * traits["roll"])
    across, radius = _outline(x, y, traits)
    depth = (1.0 - radius * radius).clamp_(min=0.0).sqrt_()
    turned, tilted = traits["yaw"] * 0.8, traits["pitch"]
    face_x = ((1.0 - turned * turned).sqrt() * across - turned * depth) * traits["face_width"]
    face_y = (1.0 - tilted * tilted).sqrt() * y - tilted * depth
    inside = (1.0 - radius) * 0.85
    pixel = (2.0 / size) / traits["scale"]
    return Frame(picture_x, picture_y, body_x, body_y, x, y, face_x, face_y, face_x.abs(), inside, depth, pixel)


def lighting(frame: Frame, traits: Traits) -> Tensor:
    """Light (N, S, S) that falls on the head: about 1 where lit, less in the shade."""
    normal_x = (frame.x * (0.85 / traits["face_width"])).clamp_(-1.0, 1.0)
    normal_y = (frame.y * 0.7).clamp_(-0.8, 0.8)
    normal_z = (1.0 - 0.8 * normal_x * normal_x - normal_y * normal_y).clamp_(min=0.04).sqrt_()
    light_x, light_y = traits["light_x"], traits["light_y"]
    length = (light_x * light_x + light_y * light_y + 1.0).sqrt()
    facing = (normal_x * light_x + normal_y * light_y + normal_z) / length
    strength = traits["light_strength"]
    return (1.0 - 0.55 * strength) + strength * (0.80 * facing.clamp_(min=-0.2) - 0.15)


def strands(frame: Frame, traits: Traits) -> tuple[Tensor, Tensor]:
    """Fine and coarse hair noise (N, S, S), about standard normal, that runs along the hair.

    Hair leaves the parting fanwise and hangs straight down further below; curls swing it to and fro.
    """
    part, curl = 0.4 * traits["hair_part"], traits["curl"]
    across, down = frame.x - part, frame.y + 1.05
    reach = (across * across + down * down + 0.14).sqrt_()
    fan = 0.55 * across / reach + 0.33 * across
    wave = traits["wavy"] * 0.05
    swing = ((reach * (1.6 + traits["hair_wave"])) % 1.0 - 0.5).abs() * 4.0 - 1.0
    fan = fan + wave * swing * (1.5 - 0.5 * swing * swing)
    noise = look_up(traits.tiles["hair"], fan * (1.25 - 0.55 * curl), reach * (0.09 + 0.75 * curl) - 0.7)
    return noise[:, 0], noise[:, 1]
