"""Attribute distributions of the drawn portraits: pure data, one mapping per population."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from conffusion.core.arrays import FloatArray
from conffusion.errors import ConfigError


@dataclass(frozen=True)
class Span:
    """Uniform on [`low`, `high`]."""

    low: float
    high: float

    def draw(self, uniform: FloatArray) -> FloatArray:
        """Values of shape (N,) for uniforms of shape (N,) in [0, 1)."""
        return self.low + (self.high - self.low) * uniform


@dataclass(frozen=True)
class Bell:
    """Bell-shaped on [`centre` - `spread`, `centre` + `spread`], densest at the centre."""

    centre: float
    spread: float

    def draw(self, uniform: FloatArray) -> FloatArray:
        """Values of shape (N,) for uniforms of shape (N,) in [0, 1)."""
        signed = 2.0 * uniform - 1.0
        value: FloatArray = self.centre + self.spread * (0.4 * signed + 0.6 * signed * signed * signed)
        return value


@dataclass(frozen=True)
class Chance:
    """One with probability `probability`, else zero."""

    probability: float

    def draw(self, uniform: FloatArray) -> FloatArray:
        """Values 0 or 1 of shape (N,) for uniforms of shape (N,) in [0, 1)."""
        happens: FloatArray = (uniform < self.probability).astype(np.float64)
        return happens


@dataclass(frozen=True)
class Choice:
    """Index of one of `weights`, with probability in proportion to the weights."""

    weights: tuple[float, ...]

    def draw(self, uniform: FloatArray) -> FloatArray:
        """Whole numbers of shape (N,) for uniforms of shape (N,) in [0, 1)."""
        edges = np.cumsum(np.asarray(self.weights, dtype=np.float64))
        index: FloatArray = np.searchsorted(edges[:-1] / edges[-1], uniform, side="right").astype(np.float64)
        return index


Distribution = Span | Bell | Chance | Choice

WIDE: Mapping[str, Distribution] = MappingProxyType(
    {
        # person
        "feminine": Chance(0.5),
        "age": Span(0.0, 1.0),
        "skin": Choice((2.0, 2.4, 2.0, 1.6, 1.4, 1.3, 1.2)),
        "skin_shift": Span(-0.5, 0.5),
        "skin_warm": Span(-1.0, 1.0),
        "face_width": Bell(0.75, 0.10),
        "jaw": Span(0.04, 0.30),
        "chin": Span(0.0, 1.0),
        # hair: bald, balding, buzz, side part, crop, quiff, curly, afro, bob, long, wavy, updo
        "style_masculine": Choice((1.0, 0.8, 1.0, 2.6, 1.6, 1.6, 1.1, 0.6, 0.2, 0.3, 0.3, 0.2)),
        "style_feminine": Choice((0.1, 0.0, 0.15, 0.6, 0.4, 0.4, 1.0, 0.8, 1.8, 2.3, 2.1, 1.5)),
        # colour: black, dark brown, brown, chestnut, red, dark blond, blond, grey, white, dyed
        "colour_light_skin": Choice((1.2, 1.8, 1.8, 1.0, 0.8, 1.1, 1.2, 0.8, 0.5, 0.3)),
        "colour_dark_skin": Choice((5.0, 2.4, 0.5, 0.2, 0.05, 0.05, 0.1, 0.6, 0.25, 0.2)),
        "dye_hue": Span(0.0, 1.0),
        "hair_light": Span(-1.0, 1.0),
        "hair_part": Span(-0.75, 0.75),
        "hair_volume": Span(-1.0, 1.0),
        "hair_line": Span(-1.0, 1.0),
        "hair_length": Span(-1.0, 1.0),
        "hair_wave": Span(0.0, 1.0),
        "sheen": Span(0.1, 1.0),
        "beard_kind": Choice((4.2, 1.8, 1.4, 0.9, 0.7)),
        "beard_line": Span(-1.0, 1.0),
        # eyes and brows
        "eye_colour": Choice((2.4, 1.6, 1.0, 0.8, 1.3, 0.8)),
        "gaze_x": Bell(0.0, 0.07),
        "gaze_y": Bell(0.0, 0.03),
        "eye_open": Span(0.055, 0.115),
        "eye_size": Span(0.145, 0.19),
        "eye_gap": Span(0.29, 0.36),
        "eye_tilt": Bell(0.0, 0.16),
        "closed": Chance(0.04),
        "brow_height": Span(-1.0, 1.0),
        "brow_slope": Bell(0.0, 0.28),
        "brow_thick": Span(0.018, 0.05),
        # nose and mouth
        "nose_length": Span(0.20, 0.33),
        "nose_width": Span(0.085, 0.15),
        "mouth_width": Span(0.20, 0.32),
        "smile": Bell(0.35, 0.9),
        "open": Span(0.0, 1.0),
        "open_chance": Chance(0.4),
        "teeth": Chance(0.75),
        "lip": Span(0.035, 0.075),
        "lipstick": Chance(0.45),
        "lip_hue": Choice((2.0, 2.0, 1.0, 1.0)),
        "blush": Span(0.0, 1.0),
        # accessories
        "glasses": Choice((7.4, 1.8, 0.8)),
        "frame_colour": Choice((3.0, 1.5, 0.8, 0.6, 0.6)),
        "lens_round": Span(0.0, 1.0),
        "lens_size": Span(0.21, 0.28),
        "hat_kind": Choice((8.2, 0.7, 0.7, 0.4)),
        "hat_hue": Span(0.0, 1.0),
        "hat_saturation": Span(0.05, 0.55),
        "hat_value": Span(0.12, 0.75),
        "earring": Chance(0.3),
        # pose and light
        "shift_x": Bell(0.0, 0.20),
        "shift_y": Bell(0.02, 0.14),
        "scale": Span(0.50, 0.68),
        "roll": Bell(0.0, 0.24),
        "yaw": Bell(0.0, 0.55),
        "pitch": Bell(0.0, 0.20),
        "light_x": Span(-1.1, 1.1),
        "light_y": Span(-0.9, 0.1),
        "light_strength": Span(0.2, 1.0),
        "exposure": Bell(0.99, 0.2),
        "warmth": Bell(0.0, 0.12),
        # clothing
        "cloth_kind": Choice((2.5, 1.5, 1.6, 1.2)),
        "cloth_hue": Span(0.0, 1.0),
        "cloth_saturation": Span(0.0, 0.65),
        "cloth_value": Span(0.08, 0.92),
        "cloth_pattern": Chance(0.25),
        "shirt_value": Span(0.1, 1.0),
        # background: studio, blurred colours, bokeh lights, wall or stripes, room, landscape
        "scene": Choice((1.5, 1.8, 1.1, 1.0, 1.5, 1.5)),
        "wall_hue": Choice((2.2, 1.8, 1.3, 1.2, 2.2, 1.3, 0.6, 0.6)),
        "wall_hue_shift": Span(-0.04, 0.04),
        "wall_saturation": Span(0.0, 0.48),
        "wall_value": Span(0.10, 0.92),
        "wall_other": Bell(0.0, 0.3),
        "wall_contrast": Bell(0.0, 0.45),
        "wall_angle": Span(-1.0, 1.0),
        "texture": Span(0.4, 1.0),
        "stripe_pitch": Span(2.0, 7.0),
        "glow_hue": Span(0.05, 0.17),
        # camera
        "noise": Span(0.002, 0.022),
        "blur": Span(0.0, 0.11),
        "vignette": Span(0.0, 0.3),
    }
)

SHIFTED: Mapping[str, Distribution] = MappingProxyType(
    {
        **WIDE,
        "feminine": Chance(0.64),
        "skin": Choice((2.6, 3.4, 2.4, 1.0, 0.6, 0.4, 0.25)),
        "style_masculine": Choice((0.4, 0.4, 0.7, 3.2, 1.8, 2.4, 0.5, 0.15, 0.1, 0.3, 0.2, 0.1)),
        "style_feminine": Choice((0.0, 0.0, 0.05, 0.3, 0.2, 0.3, 0.5, 0.2, 1.4, 3.4, 3.6, 1.6)),
        "colour_light_skin": Choice((1.0, 2.0, 2.2, 1.4, 0.5, 1.8, 2.4, 0.4, 0.2, 0.05)),
        "colour_dark_skin": Choice((4.0, 3.0, 1.2, 0.4, 0.05, 0.2, 0.3, 0.2, 0.1, 0.05)),
        "beard_kind": Choice((5.0, 2.6, 0.9, 0.3, 0.6)),
        "gaze_x": Bell(0.0, 0.04),
        "closed": Chance(0.01),
        "smile": Bell(0.75, 0.6),
        "open_chance": Chance(0.62),
        "teeth": Chance(0.95),
        "lipstick": Chance(0.75),
        "lip_hue": Choice((2.0, 3.0, 1.5, 0.3)),
        "glasses": Choice((9.3, 0.45, 0.25)),
        "hat_kind": Choice((9.6, 0.15, 0.15, 0.1)),
        "earring": Chance(0.5),
        "shift_x": Bell(0.0, 0.08),
        "shift_y": Bell(0.02, 0.07),
        "scale": Span(0.58, 0.66),
        "roll": Bell(0.0, 0.12),
        "yaw": Bell(0.0, 0.38),
        "pitch": Bell(0.0, 0.12),
        "light_x": Span(-0.7, 0.7),
        "light_y": Span(-0.8, -0.2),
        "light_strength": Span(0.25, 0.65),
        "exposure": Bell(1.02, 0.12),
        "warmth": Bell(0.03, 0.08),
        "cloth_kind": Choice((1.6, 1.6, 2.8, 1.4)),
        "cloth_saturation": Span(0.0, 0.45),
        "cloth_value": Span(0.05, 0.7),
        "scene": Choice((4.4, 2.6, 0.7, 0.7, 1.2, 0.4)),
        "wall_hue": Choice((3.0, 2.6, 0.8, 0.8, 2.6, 0.8, 0.2, 0.3)),
        "wall_saturation": Span(0.0, 0.30),
        "wall_value": Span(0.12, 0.8),
        "wall_contrast": Bell(0.0, 0.3),
        "texture": Span(0.15, 0.6),
        "noise": Span(0.001, 0.012),
        "blur": Span(0.0, 0.07),
    }
)

DISTRIBUTIONS: Mapping[str, Mapping[str, Distribution]] = MappingProxyType({"wide": WIDE, "shifted": SHIFTED})
POPULATIONS = ("wide", "shifted")
ATTRIBUTES = tuple(WIDE)


def distributions_of(population: str) -> Mapping[str, Distribution]:
    """Attribute distributions of `population`; `ConfigError` names the choices when it is unknown."""
    if population not in DISTRIBUTIONS:
        raise ConfigError(f"unknown face population {population!r}; choose one of {', '.join(POPULATIONS)}")
    return DISTRIBUTIONS[population]


def draw_attributes(uniforms: FloatArray, population: str) -> dict[str, FloatArray]:
    """Attribute values of each face.

    Args:
        uniforms: (N, len(ATTRIBUTES)) in [0, 1), one column per attribute.
        population: Name of the population.
    Returns:
        One float64 array of shape (N,) per attribute name.
    """
    table = distributions_of(population)
    return {name: table[name].draw(uniforms[:, column]) for column, name in enumerate(ATTRIBUTES)}
