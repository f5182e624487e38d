"""What makes a face: eyes, brows, nose, mouth, cheeks, beard and glasses."""

import torch
from torch import Tensor

from conffusion.demo.frame import Frame
from conffusion.demo.geometry import bump, cover, ellipse, mix, paint, shade
from conffusion.demo.traits import Traits

EYE_Y = -0.02
DARK = torch.tensor((0.06, 0.04, 0.04)).reshape(1, 3, 1, 1)
WHITE = torch.tensor((0.97, 0.96, 0.94)).reshape(1, 3, 1, 1)
TEETH = torch.tensor((0.95, 0.93, 0.88)).reshape(1, 3, 1, 1)
MOUTH = torch.tensor((0.30, 0.07, 0.08)).reshape(1, 3, 1, 1)


def draw_relief(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Light and shade of eye sockets, cheeks, chin and, with age, folds."""
    x, y = frame.face_x, frame.face_y
    socket = bump((frame.side - 0.30) / 0.30) * bump((y - EYE_Y + 0.05) / 0.20)
    cheek = bump((frame.side - 0.40) / 0.28) * bump((y - 0.30) / 0.26)
    chin = bump(x / 0.32) * bump((y - 0.84) / 0.16)
    below_lip = bump(x / 0.22) * bump((y - 0.69) / 0.06)
    fold_line = frame.side - 0.17 - 0.5 * (y - 0.3)
    fold = bump(fold_line / 0.05) * bump((y - 0.42) / 0.2) * (0.05 + 0.16 * traits["age"])
    forehead = bump(x / 0.5) * bump((y + 0.48) / 0.3)
    gain = 1.0 - 0.15 * socket + 0.07 * cheek + 0.06 * chin - 0.12 * below_lip - fold + 0.06 * forehead
    shade(image, gain)
    rosy = traits.colours["skin"] * torch.tensor((1.04, 0.80, 0.78)).reshape(1, 3, 1, 1)
    paint(image, cheek * (0.15 + 0.5 * traits["blush"]), rosy)


def draw_nose(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Nose: a lit bridge, a side in shade, a round tip, wings and nostrils."""
    x, y = frame.face_x, frame.face_y
    width, tip = traits["nose_width"], EYE_Y + 0.05 + traits["nose_length"]
    slope = width * (0.45 + 0.55 * bump((y - tip) / (1.3 * traits["nose_length"])))
    length = bump((y - tip + 0.16) / (traits["nose_length"] + 0.10))
    toward = traits["light_x"].clamp(-0.8, 0.8)
    flank = (bump((x - slope) / (0.7 * width)) * (0.13 + 0.15 * toward)).add_(
        bump((x + slope) / (0.7 * width)) * (0.13 - 0.15 * toward)
    )
    bridge = bump(x / (0.6 * width)) * 0.13
    base = bump(x / (1.25 * width)) * bump((y - tip - 0.10) / 0.07) * 0.26
    ball = ellipse(x, y - tip - 0.01, width, width)
    shade(image, 1.0 + length * (bridge - flank) - base + 0.09 * bump((ball - width) / (0.8 * width)))
    nostril = ellipse(frame.side - 0.55 * width, y - tip - 0.075, 0.042, 0.022)
    paint(image, cover(nostril, frame.pixel) * 0.65, traits.colours["skin"] * 0.28)


def draw_eyes(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Eyes: white, iris, pupil, glint, lashes and lid crease."""
    size, opened = traits["eye_size"], traits["eye_open"]
    local_x = frame.side - traits["eye_gap"]
    local_y = frame.face_y - EYE_Y + traits["eye_tilt"] * local_x
    across = local_x / size
    arch = 1.0 - across * across
    upper, lower = local_y + opened * 1.15 * arch, opened * 0.85 * arch - local_y
    lens = cover(torch.minimum(upper, lower), frame.pixel) * (arch > 0)
    side = (frame.face_x > 0).float() * 2.0 - 1.0
    eye_x, eye_y = local_x - side * traits["gaze_x"], local_y - traits["gaze_y"]
    reach = (eye_x * eye_x + eye_y * eye_y).sqrt_()
    lid_shade = 1.0 - 0.30 * bump(upper / 0.09)
    ball = mix(WHITE, traits.colours["iris"], cover(0.088 - reach, frame.pixel + 0.01)[:, None])
    paint(image, lens, ball * lid_shade[:, None])
    paint(image, lens * cover(0.042 - reach, frame.pixel), DARK)
    glint_x, glint_y = eye_x - 0.03 * side, eye_y + 0.035
    glint = (glint_x * glint_x + glint_y * glint_y).sqrt_()
    paint(image, lens * cover(0.024 - glint, frame.pixel) * 0.9, WHITE)
    wide = (1.15 - across * across).clamp_(0.0, 0.3).mul_(1.0 / 0.3)
    lash = cover(0.018 + 0.012 * traits["feminine"] - upper.abs(), frame.pixel) * wide
    paint(image, lash * 0.85, traits.colours["skin"] * 0.16)
    paint(image, cover(0.008 - lower.abs(), frame.pixel) * wide * 0.4, traits.colours["skin"] * 0.4)
    shade(image, 1.0 - 0.25 * bump((upper + 0.06) / 0.035) * wide)


def draw_brows(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Eyebrows in a darker hair colour."""
    local_x = frame.side - traits["eye_gap"] - 0.01
    across = local_x / 0.23
    height = EYE_Y - 0.215 - 0.025 * traits["brow_height"]
    line = height - traits["brow_slope"] * local_x + 0.065 * across * across
    thick = traits["brow_thick"] * (1.15 - 0.55 * across) * (1.0 - across * across).clamp_(min=0.0)
    brow = cover(thick - (frame.face_y - line).abs(), frame.pixel) * (across.abs() < 1.0)
    colour = mix(traits.colours["hair"] * 0.62, traits.colours["skin"] * 0.3, 0.35)
    paint(image, brow * 0.85, colour)


def draw_mouth(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Mouth: lips with a cupid's bow, corners up or down, teeth when open."""
    x = frame.face_x
    width = traits["mouth_width"] * (1.0 + 0.14 * traits["smile"])
    across = (x / width).clamp_(-1.3, 1.3)
    square = across * across
    arch = (1.0 - square).clamp_(min=0.0)
    y = frame.face_y - 0.54 + traits["smile"] * 0.085 * (square - 0.5)
    gap = traits["open"] * 0.13 * arch
    bow = 1.0 - 0.25 * bump(across / 0.3)
    top = y + gap * 0.35 + traits["lip"] * 0.85 * bow * arch
    bottom = gap * 0.65 + traits["lip"] * 1.15 * arch - y
    within = (square < 1.0).float()
    lips = cover(torch.minimum(top, bottom), frame.pixel) * within
    tone = 0.86 + 0.25 * bump((bottom - 0.045) / 0.05)
    paint(image, lips * (0.72 + 0.25 * traits["lipstick"]), traits.colours["lips"] * tone[:, None])
    hole = torch.minimum(y + gap * 0.35, gap * 0.65 - y)
    inner = cover(hole, frame.pixel) * within * (traits["open"] > 0.08)
    paint(image, inner, MOUTH)
    bite = cover(gap * (0.25 + 0.35 * (traits["smile"] > 0.2)) - y, frame.pixel)
    paint(image, inner * bite * traits["teeth"] * (1.05 - square).clamp_(0.0, 1.0), TEETH)
    seam = cover(0.010 - y.abs(), frame.pixel) * (square < 1.1) * (traits["open"] <= 0.08)
    paint(image, seam * 0.75, traits.colours["lips"] * 0.35)
    corner = bump((frame.side - width) / 0.045) * bump(y / 0.05)
    shade(image, 1.0 - 0.3 * corner)


def draw_beard(image: Tensor, frame: Frame, traits: Traits, noise: tuple[Tensor, Tensor]) -> None:
    """Beard, stubble or goatee and moustache; drawn before the mouth.

    Args:
        image: (N, 3, S, S), changed.
        frame: Coordinates.
        traits: Who is drawn.
        noise: Fine and coarse hair noise, each (N, S, S).
    """
    fine, coarse = noise
    x, y = frame.face_x, frame.face_y
    across = x / traits["face_width"]
    square = across * across
    line = traits["beard_top"] + 0.07 * traits["beard_line"] + 0.42 * bump(across / 0.85) - 0.10 * square
    area = torch.minimum(y - line, traits["beard_width"] - frame.side) + 0.03 * fine
    chin = torch.minimum(cover(frame.inside + traits["beard_drop"], 0.05), cover(area, 0.08))
    colour = traits.colours["hair"] * (0.8 + 0.13 * fine + 0.08 * coarse)[:, None]
    paint(image, chin * traits["beard"], colour)
    tache_y = y - 0.445 - 0.35 * x * x
    tache = ellipse(x, tache_y, 0.27, 0.052) + 0.01 * fine
    paint(image, cover(tache, 0.05) * traits["moustache"], colour)


def draw_glasses(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Glasses or sunglasses: lenses, frame, bridge and temples."""
    worn, size = traits["glasses"], traits["lens_size"]
    lens_x, lens_y = frame.side - traits["eye_gap"] - 0.01, frame.face_y - EYE_Y - 0.02
    across, down = lens_x / size, lens_y / (size * (0.72 + 0.22 * traits["lens_round"]))
    square_x, square_y = across * across, down * down
    boxy = 1.0 - traits["lens_round"]
    radius = mix(square_x + square_y, (square_x * square_x + square_y * square_y).sqrt(), boxy).sqrt_()
    distance = (1.0 - radius) * size
    glass = cover(distance, frame.pixel)
    glare = bump((lens_x + lens_y + 0.05) / 0.09)
    tint = DARK + 0.28 * (traits["sunglasses"] * glare)[:, None]
    paint(image, glass * worn * (0.06 + 0.88 * traits["sunglasses"]), tint)
    ring = cover(0.024 - distance.abs(), frame.pixel)
    bridge = cover(0.018 - (lens_y + 0.06).abs(), frame.pixel) * (frame.side < traits["eye_gap"] - size + 0.04)
    temple = cover(0.020 - (lens_y + 0.07).abs(), frame.pixel) * (lens_x > size - 0.01) * (frame.inside > 0)
    wire = torch.maximum(ring, torch.maximum(bridge, temple))
    paint(image, wire * worn * 0.92, traits.colours["frame"])
