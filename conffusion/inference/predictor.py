"""`conffusion.Predictor`: calibrated intervals of corrupted images of any size."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from conffusion.bounds import sort_bounds
from conffusion.core.arrays import ArrayLike, FloatArray, as_numpy
from conffusion.core.choices import BATCH_SIZE
from conffusion.core.device import BatchLimit, select_device
from conffusion.errors import ConffusionError, ConfigError, DataError, ShapeError
from conffusion.evaluation.drift import Drift
from conffusion.images.resize import from_uint8, resize_bicubic, resize_pixels, to_uint8
from conffusion.inference.backends import open_backend
from conffusion.inference.from_run import package_run
from conffusion.inference.interval import Interval, UncalibratedInterval, checked_mask
from conffusion.inference.model_file import read_package
from conffusion.inference.package import Package
from conffusion.inference.tiling import Canvas, Tile, grid_tiles, hole_tiles
from conffusion.tasks import DegradedImages, Task
from conffusion.tasks.inpainting import MID_GREY

COLOURS = 3
MAX_OUTPUT_PIXELS = 100_000_000  # of one restored image; each takes some 150 bytes of memory


@dataclass(frozen=True, eq=False)
class Corrupted:
    """An image to restore; anything with these attributes will do, such as `conffusion.Pair` or an `Item`.

    Attributes:
        image: (C, H, W) or (H, W) in [0, 1], 1 or 3 channels; for super-resolution the small image.
        mask: (H, W), 1 or True at missing pixels; None for tasks without.
    """

    image: ArrayLike
    mask: ArrayLike | None = None


class _LikeCorrupted(Protocol):
    @property
    def image(self) -> ArrayLike: ...
    @property
    def mask(self) -> ArrayLike | None: ...


ItemT = TypeVar("ItemT", bound=_LikeCorrupted)


@dataclass(frozen=True, eq=False)
class _Tiled(Generic[ItemT]):
    """An image whose tiles are being predicted.

    Attributes:
        item: What it was made of.
        condition: (3, H, W) what the network sees.
        mask: (H, W) uint8, 1 where pixels are restored.
        colours: Channels of the image as given.
        digest: Names its random inputs.
        canvas: Where its tiles are put together: estimate, lower and upper bound, (3, 3, H, W).
    """

    item: ItemT
    condition: FloatArray
    mask: npt.NDArray[np.uint8]
    colours: int
    digest: str
    canvas: Canvas


class Predictor:
    """Calibrated per-pixel intervals of corrupted images.

    Colour networks take grey images as well: the grey value stands in each channel, and the bounds are averaged over
    channels. That is another kind of image than those that calibrated the model: calibrate on grey pairs.

    Args:
        package: The model.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "mps".
        batch_size: Tiles per network call, at most; variants per network call for a sampled method. Where memory does
            not suffice, smaller batches are found and used from then on.
        threads: CPU threads; None = as torch chooses.
    Raises:
        PackageError: If the package's weights are unusable.
        ConfigError: If the device is not there, or the batch size below 1.

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
        self, package: Package, device: str = "auto", batch_size: int = BATCH_SIZE, threads: int | None = None
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size = {batch_size}: must be at least 1")
        self.package, self.task, self.calibration = package, package.task, package.calibration
        placed = select_device(device, "auto" if package.record.bfloat16 else "float32", threads)
        self.bfloat16 = placed.bfloat16
        self._backend, self._limit = open_backend(package, placed, batch_size), BatchLimit(batch_size)
        self._shape = self.calibration.family.shape
        self._trained_hole = self.task.mask((1, 1, self.tile_size, self.tile_size))[0, 0]

    @classmethod
    def from_package(cls, path: str | Path, **options: Any) -> Self:
        """The model in a package file; see `conffusion.inference.model_file.read_package` for errors.

        Args:
            path: The file, `NAME.conffusion`.
            options: `device`, `batch_size`, `threads`.
        """
        return cls(read_package(path), **options)

    @classmethod
    def from_run(cls, run: str | Path, task: str, method: str, protocol: str = "guaranteed", **options: Any) -> Self:
        """A method of a finished run of the workflow; see `conffusion.inference.from_run.package_run` for errors."""
        return cls(package_run(run, task, method, protocol), **options)

    @property
    def tile_size(self) -> int:
        """Side of the images that the network knows, in pixels."""
        return self.package.record.image_size

    @property
    def forward_passes(self) -> int:
        """Network calls per tile."""
        return self._backend.forward_passes

    def __call__(self, image: ArrayLike, mask: ArrayLike | None = None) -> Interval:
        """The calibrated interval of one image.

        Args:
            image: (C, H, W) or (H, W) in [0, 1], 1 or 3 channels: the corrupted image. Super-resolution takes the small
                image.
            mask: (H, W), 1 or True at missing pixels; needed for inpainting, and for nothing else.
        Returns:
            The interval, of the image's own number of channels; for super-resolution of the enlarged size.
        Raises:
            ShapeError: If the shapes do not fit.
            DataError: If values are not in [0, 1], the mask is missing, empty or not wanted, or a hole is larger than
                the model was calibrated for.
        """
        return next(self.map([Corrupted(image, mask)]))[1]

    def map(self, items: Iterable[ItemT]) -> Iterator[tuple[ItemT, Interval]]:
        """The calibrated interval of many images, in order, in batches of tiles across images.

        Args:
            items: Images with their masks, such as `Corrupted`; read as they are needed, so that memory stays bounded.
        Yields:
            Each item with its interval. What comes before an item that is refused is yielded first.
        """
        for item, interval in self.map_uncalibrated(items):
            yield item, interval.calibrated(self.calibration, self.package.evidence)

    def map_uncalibrated(self, items: Iterable[ItemT]) -> Iterator[tuple[ItemT, UncalibratedInterval]]:
        """As `map`, with the bounds before the scale lambda_hat: what calibration starts from."""
        images: deque[_Tiled[ItemT]] = deque()
        waiting: deque[tuple[_Tiled[ItemT], Tile]] = deque()
        iterator, failure = iter(items), None
        while True:
            try:
                image = self._prepare(next(iterator))
            except StopIteration:
                break
            except ConffusionError as error:  # raised once what came before it is finished
                failure = error
                break
            images.append(image)
            waiting.extend((image, tile) for tile in image.canvas.tiles)
            while len(waiting) >= self._limit.size:
                self._predict_next(waiting)
            while images and images[0].canvas.is_complete:
                yield self._finish(images.popleft())
        while waiting:
            self._predict_next(waiting)
        while images:
            yield self._finish(images.popleft())
        if failure is not None:
            raise failure

    def drift(self, features: ArrayLike, groups: Any | None = None, seed: int = 0) -> Drift:
        """Whether images, described by `Interval.features`, look like those that calibrated the model.

        Args:
            features: (n_images, 14).
            groups: (n_images,) label of each image's group, where images belong together.
            seed: Of permutations.
        """
        return self.package.evidence.drift(features, groups, seed)

    def _prepare(self, item: ItemT) -> _Tiled[ItemT]:
        pixels = _checked_image(item.image)
        condition = enlarge(pixels, self.task)
        if len(condition) != COLOURS:
            condition = np.repeat(condition, COLOURS, axis=0)
        height, width = condition.shape[1:]
        mask = _task_mask(item.mask, self.task, height, width)
        if self.task.has_mask:  # what stands in holes must not count
            condition = np.where(mask == 1, np.float32(MID_GREY), condition)
            tiles = hole_tiles(mask, self._trained_hole)
        else:
            tiles = grid_tiles(height, width, self.tile_size, self.package.record.overlap, self.task.factor)
        digest = hashlib.sha256(condition.tobytes() + mask.tobytes()).hexdigest()
        return _Tiled(item, condition, mask, len(pixels), digest, Canvas(tiles, (3, *condition.shape)))

    def _predict_next(self, waiting: deque[tuple[_Tiled[ItemT], Tile]]) -> None:
        parts = [waiting.popleft() for _ in range(min(self._limit.size, len(waiting)))]
        self._limit.batches(parts, self._predict)

    def _predict(self, parts: Sequence[tuple[_Tiled[ItemT], Tile]]) -> None:
        """Bounds of some tiles, onto the canvases of their images."""
        condition = np.stack([tile.cut(image.condition) for image, tile in parts])
        mask = np.stack([np.broadcast_to(tile.mask, condition.shape[1:]) for _, tile in parts])
        if self.task.has_mask:
            condition = np.where(mask == 1, np.float32(MID_GREY), condition)
        ids = [f"{image.digest}/{tile.top},{tile.left}" for image, tile in parts]
        images = DegradedImages(self.task, self.package.record.seed, ids, condition, mask)
        point, lower, upper = self._backend.bounds(images)
        if self.package.record.sorts_bounds:
            lower, upper, _ = sort_bounds(lower, upper)
        if self._shape is not None:
            lower, upper = self._shape.apply(lower.astype(np.float64), upper.astype(np.float64))
        for (image, tile), *bounds in zip(parts, point, lower, upper, strict=True):
            image.canvas.add(tile, np.stack(bounds))

    def _finish(self, image: _Tiled[ItemT]) -> tuple[ItemT, UncalibratedInterval]:
        blended = image.canvas.blend(image.condition)
        if image.colours < COLOURS:
            blended = blended.mean(axis=1, keepdims=True)
        point, lower, upper = blended
        tiles, has_mask = image.canvas.tiles, self.task.has_mask
        return image.item, UncalibratedInterval(
            lower=lower,
            upper=upper,
            estimate=point,
            estimate_kind=self._backend.estimate_kind,
            mask=image.mask if has_mask else None,
            given=image.condition,
            n_tiles=len(tiles),
            odd_holes=has_mask and any(tile.mask.sum() > self._trained_hole.sum() for tile in tiles),
        )


def enlarge(image: FloatArray, task: Task) -> FloatArray:
    """What a network sees of a (C, H, W) image: for super-resolution enlarged, (C, factor H, factor W).

    Raises:
        DataError: If it would become too large.
    """
    if task.factor == 1:
        return image
    height, width = (side * task.factor for side in image.shape[1:])
    if height * width > MAX_OUTPUT_PIXELS:
        raise DataError(
            f"an image of {image.shape[2]}x{image.shape[1]} pixels would become {width}x{height}, more than "
            f"{MAX_OUTPUT_PIXELS:,} pixels: cut it into parts"
        )
    if np.array_equal(from_uint8(to_uint8(image)), image):  # 8 bits, as in the workflow
        return resize_bicubic(image[None], height, width)[0]
    planes = [resize_pixels(np.repeat(plane[..., None], 3, axis=2), height, width)[..., 0] for plane in image]
    return np.stack(planes)


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
        raise DataError("image holds values outside [0, 1] or NaN: scale or repair it first")
    return np.ascontiguousarray(pixels, dtype=np.float32)


def _task_mask(mask: ArrayLike | None, task: Task, height: int, width: int) -> npt.NDArray[np.uint8]:
    if not task.has_mask:
        if mask is not None:
            raise DataError(f"{task.label} restores every pixel: leave the mask out")
        return np.ones((height, width), np.uint8)
    if mask is None:
        raise DataError(f"{task.label} needs a mask: 1 at the missing pixels")
    hole = checked_mask(mask)
    if hole.shape != (height, width):
        raise ShapeError(f"mask has shape {hole.shape} but the image has {(height, width)}: give one value per pixel")
    return hole
