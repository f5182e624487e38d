"""What a restoration task is: how images are degraded, and which pixels are judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import ArrayLike, FloatArray, as_numpy
from conffusion.errors import DataError, ShapeError

MaskArray: TypeAlias = npt.NDArray[np.uint8]
Photographs: TypeAlias = Callable[[int], FloatArray]
"""Side in pixels to the images at that size, (N, C, side, side) in [0, 1], resized from the files they come from."""
Degrade: TypeAlias = Callable[[FloatArray, Sequence[str], int, Photographs | None], FloatArray]
"""(target (N, C, H, W) in [0, 1], N image ids, seed, photographs) to the condition, of the same shape and range."""
Evaluated: TypeAlias = Callable[[int, int], MaskArray]
"""(height, width) to a (height, width) mask, 1 where a pixel is judged."""


def everywhere(height: int, width: int) -> MaskArray:
    """Mask of ones: every pixel is judged."""
    return np.ones((height, width), dtype=np.uint8)


@dataclass(frozen=True)
class Task:
    """A restoration task as data; `conffusion.tasks.registry` lists all of them.

    Attributes:
        name: Its key in the configuration and in file names.
        label: Its name for people, in tables and figures.
        degrade: What a network is shown of a target. Anything random in it is a function of (seed, task, image id).
        evaluated: Which pixels risk and interval size count.
        has_mask: Whether pixels outside the mask are known, so that samplers put them back and intervals there
            are points.
        fill: `noise`: networks get the pixels inside the mask as standard normal noise (in [-1, 1] units), as in
            Palette, instead of what the condition stores there; `none`: the condition as it is.
        factor: How many times larger a side of the restored image is than what was given of it.
    """

    name: str
    label: str
    degrade: Degrade
    evaluated: Evaluated = everywhere
    has_mask: bool = False
    fill: Literal["none", "noise"] = "none"
    factor: int = 1

    def apply(
        self, target: ArrayLike, image_ids: Sequence[str], seed: int, photographs: Photographs | None = None
    ) -> tuple[FloatArray, MaskArray]:
        """Degrade images.

        Args:
            target: (N, C, H, W) in [0, 1]; not changed.
            image_ids: N names, which random degradations depend on.
            seed: Seed of random degradations.
            photographs: The same images at other sizes, for tasks that degrade the original file.
        Returns:
            The condition, (N, C, H, W) float32 in [0, 1], and the mask, (N, C, H, W) uint8, 1 = evaluated.
        Raises:
            ShapeError: If the shapes do not fit each other or the task's settings.
            DataError: If a value is outside [0, 1] or not finite.
        """
        images = np.asarray(as_numpy(target), dtype=np.float32)
        _check_images(images, image_ids)
        condition = np.clip(self.degrade(images, image_ids, seed, photographs), 0, 1).astype(np.float32, copy=False)
        return condition, self.mask(images.shape)

    def mask(self, shape: tuple[int, ...]) -> MaskArray:
        """Evaluated pixels of images of shape (N, C, H, W), as uint8 of that shape.

        Raises:
            ShapeError: If no pixel would be evaluated.
        """
        height, width = shape[-2:]
        plane = self.evaluated(height, width)
        if not plane.any():
            raise ShapeError(f"task {self.name!r}: no pixel of a {width}x{height} image would be evaluated")
        return np.broadcast_to(plane, shape).copy()


def _check_images(images: FloatArray, image_ids: Sequence[str]) -> None:
    if images.ndim != 4:
        raise ShapeError(f"target has shape {images.shape}: expected (N, C, H, W)")
    if len(image_ids) != len(images):
        raise ShapeError(f"{len(image_ids)} image ids for {len(images)} images: they must be as many")
    inside = (images >= 0) & (images <= 1)  # False for NaN
    if not inside.all():
        worst = image_ids[int(np.argmin(inside.all(axis=(1, 2, 3))))]
        raise DataError(f"image {worst!r} holds values outside [0, 1]; divide 8-bit images by 255")
