"""From drawn attribute values to the colours and style parameters used for painting."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conffusion.core.arrays import FloatArray
from conffusion.demo.geometry import hue_colour, mix

SKIN_TONES = (
    (0.94, 0.80, 0.71),
    (0.91, 0.74, 0.62),
    (0.88, 0.68, 0.54),
    (0.78, 0.57, 0.42),
    (0.62, 0.42, 0.29),
    (0.46, 0.29, 0.20),
    (0.32, 0.20, 0.15),
)
DARK_SKIN = 3.4
HAIR_COLOURS = (
    (0.07, 0.06, 0.06),
    (0.17, 0.11, 0.08),
    (0.31, 0.20, 0.13),
    (0.42, 0.23, 0.13),
    (0.55, 0.26, 0.13),
    (0.60, 0.45, 0.28),
    (0.78, 0.64, 0.44),
    (0.55, 0.54, 0.53),
    (0.88, 0.87, 0.85),
)
DYED = len(HAIR_COLOURS)
EYE_COLOURS = (
    (0.24, 0.13, 0.07),
    (0.38, 0.24, 0.12),
    (0.45, 0.38, 0.18),
    (0.27, 0.45, 0.28),
    (0.28, 0.50, 0.70),
    (0.46, 0.54, 0.58),
)
LIPSTICKS = ((0.76, 0.18, 0.22), (0.82, 0.38, 0.42), (0.58, 0.12, 0.26), (0.50, 0.26, 0.22))
WALL_HUES = (0.07, 0.11, 0.17, 0.34, 0.59, 0.50, 0.78, 0.98)  # brown, sand, olive, green, blue, teal, plum, rose
FRAME_COLOURS = ((0.06, 0.06, 0.07), (0.30, 0.18, 0.10), (0.70, 0.58, 0.32), (0.55, 0.12, 0.14), (0.20, 0.26, 0.46))

HAIR_FIELDS = (
    "presence",
    "line",
    "curve",
    "slant",
    "side_end",
    "length",
    "volume_top",
    "volume_side",
    "flare",
    "curl",
    "wavy",
    "bun",
)
HAIR_STYLES = (
    (0.00, -0.95, 0.60, 0.00, -0.20, 0.10, 0.00, 0.00, 0.0, 0.0, 0.0, 0.0),  # bald
    (0.92, -1.02, 0.95, 0.00, 0.10, 0.34, 0.00, 0.03, 0.0, 0.2, 0.0, 0.0),  # balding
    (0.80, -0.64, 0.75, 0.00, 0.00, 0.26, 0.02, 0.01, 0.0, 0.3, 0.0, 0.0),  # buzz
    (1.00, -0.58, 0.70, 0.24, 0.08, 0.36, 0.11, 0.05, 0.0, 0.1, 0.2, 0.0),  # side part
    (1.00, -0.42, 0.50, 0.06, 0.06, 0.36, 0.10, 0.06, 0.0, 0.2, 0.1, 0.0),  # crop with a fringe
    (1.00, -0.66, 0.80, 0.10, 0.02, 0.30, 0.22, 0.04, 0.0, 0.2, 0.3, 0.0),  # quiff
    (1.00, -0.52, 0.75, 0.06, 0.20, 0.60, 0.22, 0.20, 0.0, 1.0, 0.4, 0.0),  # curly
    (1.00, -0.60, 0.65, 0.00, 0.18, 0.66, 0.42, 0.48, 0.0, 1.0, 0.0, 0.0),  # afro
    (1.00, -0.38, 0.85, 0.08, 0.70, 0.86, 0.13, 0.17, 0.1, 0.0, 0.2, 0.0),  # bob
    (1.00, -0.58, 1.15, 0.16, 1.55, 1.75, 0.12, 0.13, 0.1, 0.0, 0.2, 0.0),  # long
    (1.00, -0.54, 1.15, 0.18, 1.35, 1.60, 0.16, 0.20, 0.2, 0.35, 1.0, 0.0),  # wavy
    (1.00, -0.64, 0.75, 0.06, 0.02, 0.34, 0.07, 0.02, 0.0, 0.0, 0.1, 1.0),  # updo
)
HAT_FIELDS = ("hat", "hat_edge", "hat_height", "hat_width", "brim_width", "brim_thick", "brim_drop")
HAT_STYLES = (
    (0.0, -0.5, 1.2, 0.9, 0.0, 0.05, 0.0),  # none
    (1.0, -0.42, 0.78, 0.88, 0.86, 0.13, -0.04),  # beanie
    (1.0, -0.50, 0.66, 0.84, 0.80, 0.11, 0.10),  # cap
    (1.0, -0.48, 0.84, 0.78, 1.40, 0.11, 0.0),  # wide brim
)
BEARD_FIELDS = ("beard", "beard_top", "beard_width", "beard_drop", "moustache")
BEARD_STYLES = (
    (0.0, 0.5, 1.0, 0.0, 0.0),  # shaven
    (0.30, 0.20, 1.2, 0.0, 0.8),  # stubble
    (0.82, 0.24, 1.2, 0.07, 1.0),  # full
    (0.88, 0.55, 0.34, 0.08, 1.0),  # goatee
    (0.0, 0.9, 0.3, 0.0, 1.0),  # moustache
)
SCENE_FIELDS = ("gradient", "coarse", "fine", "lights", "stripes", "room", "land")
SCENE_STYLES = (
    (1.0, 0.15, 0.02, 0.0, 0.0, 0.0, 0.0),  # studio
    (0.7, 1.00, 0.04, 0.0, 0.0, 0.2, 0.0),  # blurred colours
    (0.5, 0.50, 0.04, 1.0, 0.0, 0.0, 0.0),  # bokeh lights
    (0.5, 0.20, 0.06, 0.0, 1.0, 0.0, 0.0),  # wall
    (0.6, 0.25, 0.04, 0.1, 0.0, 1.0, 0.0),  # room
    (0.4, 0.55, 0.09, 0.0, 0.0, 0.0, 1.0),  # landscape
)
CLOTH_FIELDS = ("neck_depth", "neck_vee", "jacket", "shirt")
CLOTH_STYLES = (
    (0.17, 0.15, 0.0, 0.0),  # round neck
    (0.34, 0.90, 0.0, 0.0),  # vee neck
    (0.16, 0.50, 1.0, 1.0),  # jacket over a shirt
    (0.06, 0.60, 0.0, 0.0),  # high collar
)


@dataclass(frozen=True)
class Traits:
    """Everything that tells a chunk of N faces apart.

    Attributes:
        values: Scalars of shape (N, 1, 1) by name.
        colours: RGB colours of shape (N, 3, 1, 1) in [0, 1] by name.
        tiles: Smooth-noise sources (N, C, T, T), standard normal, by name.
    """

    values: Mapping[str, Tensor]
    colours: Mapping[str, Tensor]
    tiles: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        """Scalar trait `name`, (N, 1, 1)."""
        return self.values[name]


def _rows(table: tuple[tuple[float, ...], ...], index: FloatArray) -> FloatArray:
    """Rows (N, K) of `table` at whole-number `index` (N,)."""
    rows: FloatArray = np.asarray(table, dtype=np.float64)[index.astype(np.int64)]
    return rows


def _scalar(values: FloatArray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).reshape(-1, 1, 1)


def _colour(values: FloatArray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).reshape(-1, 3, 1, 1)


def _styles(drawn: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Continuous parameters of the drawn hair, hat, beard, scene and clothing kinds, each (N,)."""
    hair = np.where(drawn["feminine"] > 0.5, drawn["style_feminine"], drawn["style_masculine"])
    tables = (
        (HAIR_FIELDS, HAIR_STYLES, hair),
        (HAT_FIELDS, HAT_STYLES, drawn["hat_kind"]),
        (BEARD_FIELDS, BEARD_STYLES, drawn["beard_kind"]),
        (SCENE_FIELDS, SCENE_STYLES, drawn["scene"]),
        (CLOTH_FIELDS, CLOTH_STYLES, drawn["cloth_kind"]),
    )
    styles: dict[str, FloatArray] = {}
    for fields, table, index in tables:
        styles.update(zip(fields, _rows(table, index).T, strict=True))
    return styles


def _combined(drawn: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """All scalars (N,): drawn values, style parameters and those that follow from several of them."""
    values = {**drawn, **_styles(drawn)}
    values["wall_hue"] = np.asarray(WALL_HUES)[drawn["wall_hue"].astype(np.int64)] + drawn["wall_hue_shift"]
    values["line"] = values["line"] + 0.06 * drawn["hair_line"]
    values["volume_top"] = values["volume_top"] * (1.0 + 0.3 * drawn["hair_volume"])
    values["volume_side"] = values["volume_side"] * (1.0 + 0.3 * drawn["hair_volume"])
    grown = 1.0 + 0.14 * drawn["hair_length"]
    values["length"], values["side_end"] = values["length"] * grown, values["side_end"] * grown
    values["slant"] = values["slant"] * np.where(drawn["hair_part"] > 0, 1.0, -1.0)
    masculine = 1.0 - drawn["feminine"]
    values["beard"], values["moustache"] = values["beard"] * masculine, values["moustache"] * masculine
    values["moustache"] = values["moustache"] * np.where(values["beard"] > 0.0, values["beard"], 0.85)
    values["lipstick"] = drawn["lipstick"] * drawn["feminine"]
    values["earring"] = drawn["earring"] * drawn["feminine"]
    values["open"] = drawn["open"] * drawn["open_chance"]
    values["eye_open"] = drawn["eye_open"] * (1.0 - 0.85 * drawn["closed"]) * (1.0 - 0.15 * (drawn["smile"] > 0.6))
    values["brow_thick"] = drawn["brow_thick"] * (1.0 - 0.25 * drawn["feminine"])
    values["sunglasses"] = (drawn["glasses"] > 1.5).astype(np.float64)
    values["glasses"] = (drawn["glasses"] > 0.5).astype(np.float64)
    return values


def _skin(drawn: Mapping[str, FloatArray]) -> FloatArray:
    """Skin colours (N, 3), between the tones of the table."""
    place = np.clip(drawn["skin"] + drawn["skin_shift"], 0.0, len(SKIN_TONES) - 1.001)
    low = np.floor(place)
    weight = (place - low)[:, None]
    tone = _rows(SKIN_TONES, low) * (1.0 - weight) + _rows(SKIN_TONES, low + 1.0) * weight
    warm: FloatArray = tone * (1.0 + drawn["skin_warm"][:, None] * np.asarray((0.01, -0.015, -0.05)))
    return warm


def _hair(drawn: Mapping[str, FloatArray]) -> Tensor:
    """Hair colours (N, 3, 1, 1)."""
    kind = np.where(drawn["skin"] > DARK_SKIN, drawn["colour_dark_skin"], drawn["colour_light_skin"])
    natural = _colour(_rows(HAIR_COLOURS, np.minimum(kind, DYED - 1)))
    hue = _scalar(drawn["dye_hue"])
    dyed = hue_colour(hue, torch.full_like(hue, 0.55), torch.full_like(hue, 0.6))
    colour = mix(natural, dyed, _scalar((kind >= DYED).astype(np.float64))[:, None])
    return colour * (1.0 + 0.15 * _scalar(drawn["hair_light"])[:, None])


def _surroundings(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Colours of hat, clothes and background, each (N, 3, 1, 1)."""
    hue, saturation, value = values["wall_hue"], values["wall_saturation"], values["wall_value"]
    other = (value + values["wall_contrast"]).clamp(0.05, 0.97)
    still = torch.zeros_like(hue)
    return {
        "hat": hue_colour(values["hat_hue"], values["hat_saturation"], values["hat_value"]),
        "cloth": hue_colour(values["cloth_hue"], values["cloth_saturation"], values["cloth_value"]),
        "shirt": hue_colour(values["cloth_hue"] + 0.45, 0.25 * values["cloth_saturation"], values["shirt_value"]),
        "wall": hue_colour(hue, saturation, value),
        "other": hue_colour(hue + values["wall_other"], saturation, other),
        "glow": hue_colour(values["glow_hue"], 0.25 + 0.5 * saturation, still + 0.97),
        "sky": hue_colour(0.58 + 0.03 * values["wall_angle"], 0.08 + 0.6 * saturation, 0.7 + 0.28 * value),
        "ground": hue_colour(0.27 + 0.12 * values["wall_angle"], 0.18 + 0.6 * saturation, 0.2 + 0.4 * value),
    }


def make_traits(drawn: Mapping[str, FloatArray], tiles: Mapping[str, Tensor]) -> Traits:
    """Traits of a chunk of faces from their drawn attributes (each (N,)) and noise tiles."""
    values = {name: _scalar(value) for name, value in _combined(drawn).items()}
    skin = _colour(_skin(drawn))
    bare = skin * torch.tensor((0.84, 0.62, 0.60)).reshape(1, 3, 1, 1)
    painted = _colour(_rows(LIPSTICKS, drawn["lip_hue"]))
    colours = {
        "skin": skin,
        "hair": _hair(drawn),
        "iris": _colour(_rows(EYE_COLOURS, drawn["eye_colour"])),
        "lips": mix(bare, mix(bare, painted, 0.75), values["lipstick"][:, None]),
        "frame": _colour(_rows(FRAME_COLOURS, drawn["frame_colour"])),
        **_surroundings(values),
    }
    return Traits(values, colours, tiles)
