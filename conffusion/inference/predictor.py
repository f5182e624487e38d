"""`conffusion.Predictor`: calibrated intervals for people's own images, of any size."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from conffusion.bounds import sort_bounds
from conffusion.core.arrays import ArrayLike, FloatArray, as_numpy
from conffusion.core.device import BatchLimit, select_device
from conffusion.errors import ConffusionError, DataError, ShapeError
from conffusion.evaluation.drift import Drift
from conffusion.images.resize import from_uint8, resize_bicubic, resize_pixels, to_uint8
from conffusion.inference.backends import open_source
from conffusion.inference.from_run import package_run
from conffusion.inference.interval import Interval
from conffusion.inference.model_file import read_package
from conffusion.inference.package import Package
from conffusion.inference.tiling import Canvas, Tile, grid_tiles, hole_tiles
from conffusion.inference.unscaled import Unscaled
from conffusion.tasks import DegradedImages
from conffusion.tasks.inpainting import MID_GREY

COLOURS = 3
MAX_OUTPUT_PIXELS = 100_000_000  # of one restored image; each takes some 150 bytes of memory


@dataclass(eq=False)
class _Work:
    """An image whose tiles are being predicted."""

    condition: FloatArray
    mask: npt.NDArray[np.uint8]
    colours: int
    digest: str
    tiles: Sequence[Tile]
    canvas: Canvas = field(init=False)

    def __post_init__(self) -> None:
        self.canvas = Canvas(self.tiles, (3, *self.condition.shape))


class Predictor:
    """Calibrated per-pixel intervals of corrupted images.

    Colour networks take grey images as well: the grey value stands in each channel, and the bounds are averaged over
    channels. That is another kind of image than those that calibrated the model: calibrate on grey pairs.

    Args:
        package: The model.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "mps".
        batch_size: Tiles per network call, at most; variants per network call for a sampled method.
        threads: CPU threads; None = as torch chooses.
    Raises:
        PackageError: If the package's weights are unusable.
        ConfigError: If the device is not there.

    Example:
        >>> import numpy as np
        >>> from conffusion import Predictor
        >>> predictor = Predictor.from_package("faces.conffusion", device="cpu")
        >>> image = np.full((3, 6, 5), 0.5)
        >>> interval = predictor(image)  # super-resolution by 4
        >>> interval.lower.shape
        (3, 24, 20)
    """

    def __init__(
        self, package: Package, device: str = "auto", batch_size: int = 64, threads: int | None = None
    ) -> None:
        self.package, self.task, self.calibration = package, package.task, package.calibration
        precision = "auto" if package.record.bfloat16 else "float32"
        placed = select_device(device, precision, threads)
        self._source, self.bfloat16 = open_source(package, placed, batch_size), placed.bfloat16
        self._batch_size, self._family = batch_size, package.family
        self._trained_hole = self.task.mask((1, 1, self.tile_size, self.tile_size))[0, 0]

    @classmethod
    def from_package(cls, path: str | Path, **options: Any) -> Self:
        """The model in a package file; see `conffusion.inference.read_package` for errors.

        Args:
            path: The file, `NAME.conffusion`.
            options: `device`, `batch_size`, `threads`.
        """
        return cls(read_package(path), **options)

    @classmethod
    def from_run(cls, run: str | Path, task: str, method: str, protocol: str = "guaranteed", **options: Any) -> Self:
        """A method of a finished run of the workflow; see `conffusion.inference.package_run` for errors."""
        return cls(package_run(run, task, method, protocol), **options)

    @property
    def tile_size(self) -> int:
        """Side of the images that the network knows, in pixels."""
        return self.package.record.image_size

    @property
    def forward_passes(self) -> int:
        """Network calls per tile."""
        return self._source.forward_passes

    def __call__(self, image: ArrayLike, mask: ArrayLike | None = None) -> Interval:
        """Intervals of one image.

        Args:
            image: (C, H, W) or (H, W) in [0, 1], 1 or 3 channels: the corrupted image. Super-resolution takes the small
                image.
            mask: (H, W), 1 or True at missing pixels; needed for inpainting, and for nothing else.
        Returns:
            The calibrated interval, of the image's own number of channels; for super-resolution of the enlarged size.
        Raises:
            ShapeError: If the shapes do not fit.
            DataError: If values are not in [0, 1], the mask is missing, empty or not wanted, or a hole is larger than
                the model was calibrated for.
        """
        return self.scale(next(self.unscaled([(image, mask)])))

    def scale(self, unscaled: Unscaled) -> Interval:
        """The calibrated interval of an image."""
        return unscaled.scaled(
            self.calibration,
            self._source.estimate_kind,
            has_mask=self.task.has_mask,
            image_p_value=self.package.evidence.image_p_value(unscaled.features()),
        )

    def unscaled(self, images: Iterable[tuple[ArrayLike, ArrayLike | None]]) -> Iterator[Unscaled]:
        """Bounds before the scale of many images, in order, in batches of tiles across images, as they are asked for.

        Args:
            images: (image, mask) as for a call; an iterator is read as needed, so that memory stays bounded.
        """
        works: deque[_Work] = deque()
        waiting: deque[tuple[_Work, Tile]] = deque()
        iterator, failure = iter(images), None
        while True:
            try:
                work = self._prepare(*next(iterator))
            except StopIteration:
                break
            except ConffusionError as error:  # once what came before it is finished
                failure = error
                break
            works.append(work)
            waiting.extend((work, tile) for tile in work.tiles)
            while len(waiting) >= self._batch_size:
                self._predict([waiting.popleft() for _ in range(self._batch_size)])
            while works and works[0].canvas.is_complete:
                yield self._finish(works.popleft())
        while waiting:
            self._predict([waiting.popleft() for _ in range(min(self._batch_size, len(waiting)))])
        while works:
            yield self._finish(works.popleft())
        if failure is not None:
            raise failure

    def drift(self, features: ArrayLike, groups: Any | None = None, seed: int = 0) -> Drift:
        """Whether images, described by `Unscaled.features`, look like those that calibrated the model.

        Args:
            features: (n_images, 14).
            groups: (n_images,) label of each image's group, where the model was calibrated on groups.
            seed: Of permutations.
        """
        return self.package.evidence.drift(features, groups, seed)

    def enlarge(self, image: FloatArray) -> FloatArray:
        """What the network sees of a (C, H, W) image: for super-resolution enlarged, (C, factor H, factor W)."""
        if self.task.factor == 1:
            return image
        height, width = (side * self.task.factor for side in image.shape[1:])
        if height * width > MAX_OUTPUT_PIXELS:
            raise DataError(
                f"an image of {image.shape[2]}x{image.shape[1]} pixels would become {width}x{height}, more than "
                f"{MAX_OUTPUT_PIXELS:,} pixels: cut it into parts"
            )
        if np.array_equal(from_uint8(to_uint8(image)), image):  # 8 bits, as in the workflow
            return resize_bicubic(image[None], height, width)[0]
        planes = [resize_pixels(np.repeat(plane[..., None], 3, axis=2), height, width)[..., 0] for plane in image]
        return np.stack(planes)

    def _prepare(self, image: ArrayLike, mask: ArrayLike | None) -> _Work:
        pixels = _checked_image(image)
        condition = self.enlarge(pixels)
        if len(condition) != COLOURS:
            condition = np.repeat(condition, COLOURS, axis=0)
        hole = self._checked_mask(mask, condition.shape[1:])
        if self.task.has_mask:  # whatever stood there, it must not count
            condition = np.where(hole == 1, np.float32(MID_GREY), condition)
        digest = hashlib.sha256(condition.tobytes() + hole.tobytes()).hexdigest()
        return _Work(condition, hole, len(pixels), digest, self._tiles(condition.shape, hole))

    def _tiles(self, shape: tuple[int, ...], hole: npt.NDArray[np.uint8]) -> Sequence[Tile]:
        if self.task.has_mask:
            return hole_tiles(hole, self._trained_hole)
        height, width = shape[1:]
        return grid_tiles(height, width, self.tile_size, self.package.record.overlap, self.task.factor)

    def _checked_mask(self, mask: ArrayLike | None, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        if not self.task.has_mask:
            if mask is not None:
                raise DataError(f"{self.task.label} restores every pixel: leave the mask out")
            return np.ones(shape, np.uint8)
        if mask is None:
            raise DataError(f"{self.task.label} needs a mask: 1 at the missing pixels")
        hole = as_numpy(mask)
        if hole.shape != tuple(shape):
            raise ShapeError(f"mask has shape {hole.shape} but the image has {tuple(shape)}: give one value per pixel")
        if not np.isin(hole, (0, 1)).all() or not hole.any():
            raise DataError("mask must hold 0 and 1 only, and 1 at one pixel at least")
        return hole.astype(np.uint8)

    def _predict(self, parts: Sequence[tuple[_Work, Tile]]) -> None:
        BatchLimit(self._batch_size).batches(parts, self._predict_batch)

    def _predict_batch(self, parts: Sequence[tuple[_Work, Tile]]) -> None:
        condition = np.stack([tile.cut(work.condition) for work, tile in parts])
        mask = np.stack([np.broadcast_to(tile.mask, condition.shape[1:]) for _, tile in parts])
        if self.task.has_mask:
            condition = np.where(mask == 1, np.float32(MID_GREY), condition)
        ids = [f"{work.digest}/{tile.top},{tile.left}" for work, tile in parts]
        images = DegradedImages(self.task, self.package.record.seed, ids, condition, mask)
        point, lower, upper = self._source.bounds(images)
        if self.package.record.sorts_bounds:
            lower, upper, _ = sort_bounds(lower, upper)
        if self._family.shape is not None:
            lower, upper = self._family.shape.apply(lower.astype(np.float64), upper.astype(np.float64))
        for k, (work, tile) in enumerate(parts):
            work.canvas.add(tile, np.stack([point[k], lower[k], upper[k]]))

    def _finish(self, work: _Work) -> Unscaled:
        blended = work.canvas.blend(work.condition)
        if work.colours < COLOURS:
            blended = blended.mean(axis=1, keepdims=True)
        point, lower, upper = blended
        odd = self.task.has_mask and any(tile.mask.sum() > self._trained_hole.sum() for tile in work.tiles)
        return Unscaled(lower, upper, point, work.mask, len(work.tiles), work.condition, odd)


def _checked_image(image: ArrayLike) -> FloatArray:
    pixels = as_numpy(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[0] not in (1, COLOURS) or 0 in pixels.shape:
        raise ShapeError(f"image has shape {pixels.shape}: must be (C, H, W) with 1 or {COLOURS} channels, or (H, W)")
    if not np.issubdtype(pixels.dtype, np.floating):
        raise DataError(
            f"image holds {pixels.dtype}: divide it by its largest possible value, so that it lies in [0, 1]"
        )
    if not ((pixels >= 0) & (pixels <= 1)).all():  # also NaN
        raise DataError("image holds values outside [0, 1] or NaN: scale or mend it first")
    return np.ascontiguousarray(pixels, dtype=np.float32)
