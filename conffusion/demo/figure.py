"""Body, neck, ears, head and hair."""

import torch
from torch import Tensor

from conffusion.demo.frame import Frame, strands
from conffusion.demo.geometry import bump, cover, ease, ellipse, mix, paint, shade
from conffusion.demo.traits import Traits


def draw_body(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Shoulders in their clothes, with neckline, jacket and folds."""
    x, y = frame.body_x, frame.body_y
    body = cover(ellipse(x, y - 2.75, 1.80, 1.52) * 0.9, frame.pixel)
    folds = traits.tiles["smooth"][:, 0]
    light = 0.95 + 0.12 * traits["light_x"] * x * traits["light_strength"] + 0.04 * folds
    band = ((y * 5.0) % 1.0 - 0.5).abs() * 2.0
    pattern = 1.0 - 0.4 * traits["cloth_pattern"] * (1.0 - traits["jacket"]) * cover(band - 0.5, 0.4)
    paint(image, body, traits.colours["cloth"] * (light * pattern)[:, None])
    lapels = torch.minimum(0.45 * (y - 1.0) + 0.15, 0.62 - 0.42 * (y - 1.2)) - x.abs()
    shirt = body * traits["jacket"] * cover(lapels, 0.02 + frame.pixel)
    paint(image, shirt, traits.colours["shirt"] * light[:, None])


def draw_neck(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Neck and the skin inside the neckline, shaded below the chin."""
    x, y = frame.body_x, frame.body_y
    width = 0.62 * traits["face_width"] - 0.05 * traits["feminine"]
    flare = 0.55 * (y - 1.0).clamp(min=0.0)
    collar = 1.22 + traits["neck_depth"] - traits["neck_vee"] * 0.8 * x.abs() - 0.9 * x * x
    throat = torch.minimum(width + flare * flare - x.abs(), torch.minimum(collar - y, y - 0.3))
    dusk = (1.05 - 0.34 * ease(1.45 - y)) * (1.02 - 0.24 * traits["light_strength"])
    paint(image, cover(throat, frame.pixel), traits.colours["skin"] * dusk[:, None])


def draw_head(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Ears and the bare head."""
    ear_x = (frame.x + 0.12 * traits["yaw"]).abs() - 0.99 * traits["face_width"]
    ear = ellipse(ear_x, frame.y - 0.06, 0.10, 0.19)
    rim = 0.72 + 0.28 * bump(ear * 12.0)
    paint(image, cover(ear, frame.pixel), traits.colours["skin"] * rim[:, None])
    drop = ellipse(ear_x - 0.02, frame.y - 0.30, 0.045, 0.065)
    paint(image, cover(drop, frame.pixel) * traits["earring"], traits.colours["glow"])
    paint(image, cover(frame.inside, frame.pixel), traits.colours["skin"])


def hair_reach(frame: Frame, traits: Traits, fine: Tensor) -> Tensor:
    """Inner distance (N, S, S) to the outline of all hair, in front of and behind the head."""
    centre = -0.12
    down = (frame.y - centre).clamp(min=0.0) / (traits["length"] - centre)
    up = (frame.y - centre).clamp(max=0.0) / (0.90 + traits["volume_top"])
    width = traits["face_width"] + 0.03 + traits["volume_side"] + traits["flare"] * (frame.y - centre).clamp(min=0.0)
    across = (frame.x + 0.08 * traits["yaw"]) / width
    down = down * down
    radius = (across * across + up * up + down * down).sqrt_()
    rough = 0.007 + 0.036 * traits["curl"] + 0.015 * traits["wavy"]
    return (1.0 - radius) * 0.85 + rough * fine


def hair_colour(frame: Frame, traits: Traits, noise: tuple[Tensor, Tensor]) -> Tensor:
    """Hair colour (N, 3, S, S): strands, locks and a sheen where the light falls."""
    fine, coarse = noise
    across, down = 0.5 * (frame.x - 0.25 * traits["light_x"]), frame.y + 0.62 - 0.2 * traits["light_y"]
    band = bump((across * across + down) * 2.6)
    sheen = traits["sheen"] * band * (0.16 + 0.10 * fine).clamp_(min=0.0) * (1.0 - 0.5 * traits["curl"])
    tone = 1.0 + 0.13 * fine + 0.12 * coarse
    return traits.colours["hair"] * tone[:, None] + sheen[:, None] * (0.35 + 0.65 * traits.colours["hair"])


def draw_back_hair(image: Tensor, frame: Frame, traits: Traits, hair: tuple[Tensor, Tensor]) -> None:
    """Hair behind the head and on the shoulders.

    Args:
        image: (N, 3, S, S), changed.
        frame: Coordinates.
        traits: Who is drawn.
        hair: Inner distance to the outline (N, S, S) and colour (N, 3, S, S).
    """
    reach, colour = hair
    bun = ellipse(frame.x - 0.2 * traits["hair_part"], frame.y + 1.12, 0.34, 0.27)
    bun = bun * traits["bun"] + traits["bun"] - 1.0
    alpha = cover(torch.maximum(reach, bun), 0.02 + frame.pixel)
    chest = torch.minimum(0.46 - frame.body_x.abs(), frame.body_y - 1.2)
    alpha = alpha * (1.0 - cover(chest, 0.12))
    dusk = 0.62 + 0.2 * cover(bun, 0.3) + 0.2 * bump(frame.x / (traits["face_width"] + 0.5) - 1.0)
    paint(image, alpha * (traits["presence"] > 0.5), colour * dusk[:, None])


def hair_edge(frame: Frame, traits: Traits, noise: tuple[Tensor, Tensor]) -> Tensor:
    """Distance (N, S, S) above the hairline; negative on the bare face."""
    across = frame.face_x / traits["face_width"]
    square = across * across
    line = traits["line"] + traits["curve"] * square * square + traits["slant"] * across * (1.3 - square).clamp(min=0.0)
    line = torch.minimum(line, traits["side_end"] + 0.1 * noise[1])
    return line - frame.face_y + 0.020 * noise[0] + 0.022 * noise[1]


def draw_front_hair(image: Tensor, frame: Frame, traits: Traits, hair: tuple[Tensor, Tensor, Tensor]) -> None:
    """Hair on the head, and the shade that it casts on the forehead.

    Args:
        image: (N, 3, S, S), changed.
        frame: Coordinates.
        traits: Who is drawn.
        hair: Inner distance to the outline (N, S, S), distance above the hairline (N, S, S), colour (N, 3, S, S).
    """
    reach, edge, colour = hair
    head = cover(frame.inside, frame.pixel)
    shade(image, 1.0 - 0.22 * traits["presence"] * head * bump((edge - 0.02) * 6.0))
    alpha = cover(torch.minimum(reach, edge), 0.04 + frame.pixel)
    paint(image, alpha * traits["presence"], colour)


def draw_hat(image: Tensor, frame: Frame, traits: Traits, noise: Tensor) -> None:
    """Beanie, cap or hat: a dome, a band or brim, and a little texture."""
    width = traits["hat_width"] * (traits["face_width"] / 0.75) + traits["volume_side"] * 0.4
    edge = traits["hat_edge"] + 0.12 * frame.x * frame.x
    across = frame.x / width
    up = (frame.y - edge) / traits["hat_height"]
    radius = (across * across + up * up * (0.6 + 0.4 * up * up)).sqrt_()
    dome = torch.minimum((1.0 - radius) * 0.8, edge - frame.y)
    tone = 1.0 - 0.3 * across * across + 0.03 * noise
    paint(image, cover(dome, frame.pixel) * traits["hat"], traits.colours["hat"] * tone[:, None])
    brim_x = frame.x - 0.35 * traits["yaw"]
    brim = ellipse(brim_x, frame.y - edge - traits["brim_drop"], traits["brim_width"] + 1e-3, traits["brim_thick"])
    shadow = bump((frame.y - edge - 0.22) * 4.5) * cover(frame.inside, frame.pixel)
    shade(image, 1.0 - 0.3 * shadow * traits["hat"])
    rim = mix(traits.colours["hat"], traits.colours["hat"] * 0.7, (0.5 + 3.0 * (frame.y - edge))[:, None].clamp(0, 1))
    paint(image, cover(brim, frame.pixel) * traits["hat"], rim)


def hair_noise(frame: Frame, traits: Traits) -> tuple[Tensor, Tensor]:
    """Fine and coarse hair noise (N, S, S), kept within 2.2 standard deviations."""
    fine, coarse = strands(frame, traits)
    return fine.clamp(-2.2, 2.2), coarse.clamp(-2.2, 2.2)
