"""Draws, lights and photographs portraits in batches."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conffusion.core.arrays import FloatArray
from conffusion.core.progress import Progress
from conffusion.core.randomness import keyed_generator
from conffusion.demo.background import draw_background
from conffusion.demo.features import (
    draw_beard,
    draw_brows,
    draw_eyes,
    draw_glasses,
    draw_mouth,
    draw_nose,
    draw_relief,
)
from conffusion.demo.figure import (
    draw_back_hair,
    draw_body,
    draw_front_hair,
    draw_hat,
    draw_head,
    draw_neck,
    hair_colour,
    hair_edge,
    hair_noise,
    hair_reach,
)
from conffusion.demo.frame import Frame, lighting, make_frame
from conffusion.demo.geometry import cover, shade, stretch
from conffusion.demo.populations import ATTRIBUTES, distributions_of, draw_attributes
from conffusion.demo.traits import Traits, make_traits
from conffusion.errors import ConfigError

CANVAS_PIXELS = 64 * 64 * 32  # canvas pixels drawn at once: keeps the working set in the cache
SOFT_TILE = (5, 7, 7)
FINE_TILE = (1, 20, 20)
HAIR_TILE = (20, 56)
SPOT_TILE = (5, 4)

Draws = dict[str, FloatArray]


def _smooth_columns(noise: FloatArray, width: int) -> FloatArray:
    """Unit-variance mean of `width` neighbouring columns, cyclic."""
    total = sum((np.roll(noise, shift, axis=-1) for shift in range(width)), np.zeros_like(noise))
    return total / np.float32(width**0.5)


def _draw_one(key: tuple[str | int, ...], size: int) -> Draws:
    """All random numbers of one face; the camera noise, which depends on the size, comes last."""
    generator = keyed_generator(*key)
    uniforms = generator.random(len(ATTRIBUTES))
    spots = generator.random(SPOT_TILE, dtype=np.float32)
    soft = generator.standard_normal(SOFT_TILE, dtype=np.float32)
    fine = generator.standard_normal(FINE_TILE, dtype=np.float32)
    hair = generator.standard_normal((2, *HAIR_TILE), dtype=np.float32)
    grain = generator.standard_normal((3, size, size), dtype=np.float32)
    return {"uniforms": uniforms, "spots": spots, "soft": soft, "fine": fine, "hair": hair, "grain": grain}


def _draw_many(keys: Sequence[tuple[str | int, ...]], size: int) -> Draws:
    """Random numbers of N faces, stacked along the first axis."""
    drawn = [_draw_one(key, size) for key in keys]
    draws = {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}
    draws["hair"][:, 1] = _smooth_columns(draws["hair"][:, 1], 5)
    return draws


def _draw_hair_and_face(image: Tensor, frame: Frame, traits: Traits) -> None:
    """Everything in front of the background and the clothes."""
    noise = hair_noise(frame, traits)
    reach, colour = hair_reach(frame, traits, noise[0]), hair_colour(frame, traits, noise)
    draw_back_hair(image, frame, traits, (reach, colour))
    draw_neck(image, frame, traits)
    draw_head(image, frame, traits)
    draw_relief(image, frame, traits)
    draw_nose(image, frame, traits)
    draw_beard(image, frame, traits, noise)
    draw_mouth(image, frame, traits)
    draw_eyes(image, frame, traits)
    draw_brows(image, frame, traits)
    draw_front_hair(image, frame, traits, (reach, hair_edge(frame, traits, noise), colour))
    draw_glasses(image, frame, traits)
    draw_hat(image, frame, traits, noise[1])
    figure = cover(torch.maximum(reach, frame.inside), 0.1)
    shade(image, 1.0 + figure * (lighting(frame, traits) - 1.0))


def _blur(image: Tensor, amount: Tensor) -> Tensor:
    """Slight blur along both axes: each pixel takes `amount` (N, 1, 1) of either neighbour; edges repeat."""
    share = amount[:, None]
    for axis in (2, 3):
        last = image.shape[axis] - 1
        before = torch.cat((image.narrow(axis, 0, 1), image.narrow(axis, 0, last)), dim=axis)
        after = torch.cat((image.narrow(axis, 1, last), image.narrow(axis, last, 1)), dim=axis)
        image = image + (before + after - 2.0 * image) * share
    return image


def _shrink(image: Tensor, factor: int) -> Tensor:
    """Mean over blocks of `factor` x `factor` pixels, in a fixed order of addition."""
    parts = [image[:, :, row::factor, column::factor] for row in range(factor) for column in range(factor)]
    total = parts[0].clone()
    for part in parts[1:]:
        total.add_(part)
    return total / float(factor * factor)


def _photograph(image: Tensor, frame: Frame, traits: Traits, factor: int) -> Tensor:
    """Exposure, colour cast and vignette, then the smaller picture, blurred: (N, 3, size, size)."""
    square = frame.picture_x * frame.picture_x + frame.picture_y * frame.picture_y
    gain = traits["exposure"] * (1.0 - 0.5 * traits["vignette"] * square)
    warm = traits["warmth"][:, None] * torch.tensor((1.0, 0.1, -1.0)).reshape(1, 3, 1, 1)
    picture = (_shrink(image.mul_(gain[:, None]), factor) * (1.0 + warm)).clamp_(0.0, 1.3)
    return _blur(picture * (1.17 - 0.21 * picture), traits["blur"])


def _render_chunk(draws: Draws, population: str, size: int, supersample: int) -> npt.NDArray[np.uint8]:
    """Pictures (N, 3, size, size) for the random numbers of N faces."""
    tiles = {name: torch.from_numpy(draws[name]) for name in ("spots", "soft", "fine", "hair")}
    tiles["smooth"] = stretch(tiles["fine"], size * supersample)
    traits = make_traits(draw_attributes(draws["uniforms"], population), tiles)
    frame = make_frame(traits, size * supersample)
    image = draw_background(frame, traits)
    draw_body(image, frame, traits)
    _draw_hair_and_face(image, frame, traits)
    picture = _photograph(image, frame, traits, supersample)
    noisy = picture + torch.from_numpy(draws["grain"]) * traits["noise"][:, None]
    return (noisy * 255.0).round_().clamp_(0.0, 255.0).to(torch.uint8).numpy()


def render_faces(
    indices: Sequence[int] | npt.NDArray[np.integer],
    size: int,
    *,
    population: str = "wide",
    seed: int = 0,
    supersample: int = 2,
) -> npt.NDArray[np.uint8]:
    """Portraits of made-up people.

    Face k of a population depends only on (seed, population, index): it is bitwise the same in any batch, and the
    same person at any size.

    Args:
        indices: N whole numbers, any number of times each, in any order.
        size: Side of the pictures in pixels, at least 8.
        population: One of `POPULATIONS`.
        seed: Seed of the whole population.
        supersample: The canvas is drawn this many times larger a side, then averaged.
    Returns:
        uint8 (N, 3, size, size), RGB.
    Raises:
        ConfigError: Unknown population, or a size or supersampling factor that is too small.
    """
    distributions_of(population)
    if size < 8 or supersample < 1:
        raise ConfigError(f"need size >= 8 and supersample >= 1, got size {size} and supersample {supersample}")
    keys = [("faces", int(seed), population, int(index)) for index in indices]
    chunk = max(1, min(64, CANVAS_PIXELS // (size * supersample) ** 2))
    pictures = np.empty((len(keys), 3, size, size), dtype=np.uint8)
    progress = Progress("drawing portraits", len(keys), unit="images", part=True)
    with torch.inference_mode():
        for start in range(0, len(keys), chunk):
            part = slice(start, start + chunk)
            pictures[part] = _render_chunk(_draw_many(keys[part], size), population, size, supersample)
            progress.update(len(keys[part]))
    return pictures
