"""Backgrounds: studio gradients, blurred colours, lights out of focus, walls, rooms and landscapes."""

import torch
from torch import Tensor

from conffusion.demo.frame import Frame
from conffusion.demo.geometry import bump, cover, ease, mix, paint, stretch
from conffusion.demo.traits import Traits

LIGHTS = 5
BOXES = 3


def _gradient(frame: Frame, traits: Traits) -> Tensor:
    """Gradient (N, 3, S, S) between the two wall colours, partly linear and partly round the head."""
    angle = traits["wall_angle"]
    slope = frame.picture_x * angle + frame.picture_y * (1.0 - angle.abs())
    round_head = bump(0.45 * (frame.body_x * frame.body_x + frame.body_y * frame.body_y).sqrt_())
    place = ease(0.5 + 0.45 * slope + 0.35 * (round_head - 0.5))
    return mix(traits.colours["wall"], traits.colours["other"], place[:, None] * traits["gradient"][:, None])


def _blotches(frame: Frame, traits: Traits) -> Tensor:
    """Multiplicative colour noise (N, 3, S, S) about 1: mostly light and dark, a little hue."""
    soft = traits.tiles["soft"]
    amount = (0.22 * traits["coarse"] * traits["texture"])[:, None]
    tint = stretch(1.0 + amount * (soft[:, :1] + 0.35 * soft[:, 1:4]), frame.x.shape[-1])
    tint.add_(traits.tiles["smooth"] * (traits["fine"] * traits["texture"])[:, None])
    return tint.clamp_(0.2, 2.0)


def _lights(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Discs of light out of focus."""
    spots = traits.tiles["spots"]
    glow = torch.zeros_like(frame.x)
    for index in range(LIGHTS):
        spot_x, spot_y, size, power = (spots[:, index, field].reshape(-1, 1, 1) for field in range(4))
        across, down = frame.picture_x - (2.2 * spot_x - 1.1), frame.picture_y - (2.0 * spot_y - 1.1)
        radius = 0.10 + 0.16 * size
        reach = (across * across + down * down).sqrt_()
        glow = torch.maximum(glow, cover(radius - reach, 0.07) * (0.15 + 0.55 * power))
    paint(image, glow * traits["lights"], traits.colours["glow"])


def _stripes(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Boards or panels: soft bands of differing brightness with dark joints."""
    tilt = (traits["wall_angle"] > 0.2).float()
    along = mix(frame.picture_x, frame.picture_y, tilt) + 0.08 * traits["wall_angle"] * frame.picture_y
    place = (along + 1.2) * traits["stripe_pitch"]
    board = place.floor()
    joint = bump(((place - board) - 0.5).abs() * 12.0 - 6.0)
    tone = (board * 0.618 + traits["hair_part"]) % 1.0 - 0.5
    image.mul_((1.0 + traits["stripes"] * (0.3 * tone - 0.35 * joint) * traits["texture"])[:, None])


def _room(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Windows, shelves and frames, out of focus."""
    spots = traits.tiles["spots"]
    colours = (traits.colours["glow"], traits.colours["other"] * 0.45, traits.colours["cloth"] * 0.7)
    for index in range(BOXES):
        centre_x, centre_y, wide, high = (spots[:, index, field].reshape(-1, 1, 1) for field in range(4))
        across = (frame.picture_x - (2.6 * centre_x - 1.3)).abs()
        down = (frame.picture_y - (1.7 * centre_y - 1.0)).abs()
        box = cover(0.12 + 0.4 * wide - across, 0.14) * cover(0.2 + 0.7 * high - down, 0.14)
        paint(image, box * (0.75 * traits["room"]), colours[index])


def _land(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Sky above, green or brown ground below a soft horizon."""
    uneven = stretch(traits.tiles["soft"][:, 4:5], frame.x.shape[-1])[:, 0]
    horizon = 0.35 * traits["wall_other"] - 0.1 + 0.10 * uneven
    ground = ease((frame.picture_y - horizon) * 3.0 + 0.5)
    scenery = mix(traits.colours["sky"], traits.colours["ground"], ground[:, None])
    paint(image, traits["land"] * (0.85 + torch.zeros_like(frame.x)), scenery)


def draw_background(frame: Frame, traits: Traits) -> Tensor:
    """Background (N, 3, S, S), values about [0, 1]."""
    image = _gradient(frame, traits)
    _room(image, frame, traits)
    _land(image, frame, traits)
    image.mul_(_blotches(frame, traits))
    _stripes(image, frame, traits)
    _lights(image, frame, traits)
    return image
