"""Pipelines of the diffusers library that restore an image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from conffusion.contrib.adapters.common import check_n_samples, needed_library, seeded
from conffusion.core.arrays import ArrayLike, FloatArray, as_numpy
from conffusion.errors import ConfigError, ShapeError

_COLOURS = 3


def from_diffusers(pipeline: Any, n_samples: int, *, seed: int = 0, **call_options: Any) -> Callable[..., FloatArray]:
    """A diffusers pipeline as a restoration model that returns samples.

    The pipeline is called once for each sample, as `pipeline(image=..., generator=..., output_type="np", ...)`, with
    `mask_image=` where the image has a mask. It gets images as 8-bit RGB of the PIL library, the one form that every
    pipeline takes; grey images are shown as colour, and what comes back is averaged over colours. The seeds of the
    samples depend on the image's content, so that the same image always gets the same interval.

    Args:
        pipeline: A `DiffusionPipeline` that takes an image: super-resolution, image to image, inpainting.
        n_samples: Samples per image, at least 2; with few of them the quantiles are rough, which costs width.
        seed: Of all samples.
        call_options: More for every call: `num_inference_steps`, `prompt`, `strength`, ...; those of a single image go
            with the image (`Pair.options`) and win.
    Returns:
        A callable (image (C, H, W) in [0, 1], mask=None, **options) -> samples (n_samples, C, H', W'), float32 in
        [0, 1], in the size that the pipeline returns.
    Raises:
        ConfigError: If diffusers is not installed, the pipeline is none, or there are fewer than 2 samples.
    """
    diffusers = needed_library("diffusers")
    if not isinstance(pipeline, diffusers.DiffusionPipeline):
        raise ConfigError(f"pipeline is a {type(pipeline).__name__}: must be a diffusers.DiffusionPipeline")
    check_n_samples(n_samples)

    def restore(image: ArrayLike, mask: ArrayLike | None = None, **options: Any) -> FloatArray:
        pixels = _checked_image(image)
        given: dict[str, Any] = {**call_options, **options, "image": _picture(pixels), "output_type": "np"}
        if mask is not None:
            given["mask_image"] = Image.fromarray(as_numpy(mask).astype(np.uint8) * 255)

        def draw(number: int) -> FloatArray:
            with seeded(seed, pixels, number) as own:  # some pipelines draw beside their generator, too
                return pipeline(**given, generator=torch.Generator().manual_seed(own)).images[0]

        stacked = np.stack([draw(number) for number in range(n_samples)]).astype(np.float32).transpose(0, 3, 1, 2)
        return stacked.mean(axis=1, keepdims=True) if len(pixels) == 1 else stacked

    return restore


def _checked_image(image: ArrayLike) -> FloatArray:
    pixels = as_numpy(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or len(pixels) not in (1, _COLOURS):
        raise ShapeError(f"image has shape {pixels.shape}: must be (C, H, W) with 1 or {_COLOURS} channels, or (H, W)")
    return pixels


def _picture(pixels: FloatArray) -> Image.Image:
    values = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(
        np.ascontiguousarray(np.broadcast_to(values, (_COLOURS, *values.shape[1:])).transpose(1, 2, 0))
    )
