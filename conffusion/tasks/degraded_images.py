"""Degraded images of a task, with what their random numbers follow from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from conffusion.core.arrays import ArrayLike, FloatArray
from conffusion.core.randomness import keyed_generator, keyed_normal
from conffusion.store import SealedStore, read_array
from conffusion.tasks.registry import build_task
from conffusion.tasks.task import Task


@dataclass(frozen=True)
class DegradedImages:
    """Images to restore; everything random about one is a pure function of (seed, task name, image id).

    Attributes:
        task: What the images lack; `has_mask` says whether that is the pixels where the mask is 1.
        seed: The run's seed.
        image_ids: One per image.
        condition: (N, C, H, W) float32 in [0, 1]; NumPy, or zarr, of which `part` reads rows.
        mask: (N, C, H, W), 1 at evaluated pixels, likewise.
    """

    task: Task
    seed: int
    image_ids: Sequence[str]
    condition: ArrayLike
    mask: ArrayLike

    @classmethod
    def of_store(cls, store: SealedStore, seed: int) -> "DegradedImages":
        """All images of an image store; none is read yet."""
        task = build_task(str(store.attributes["task"]))
        return cls(task, seed, store.image_ids, store["condition"], store["mask"])

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image."""
        return tuple(self.condition.shape[1:])

    def part(self, rows: slice) -> "DegradedImages":
        """Some of the images, read into memory.

        Raises:
            StoreError: If a chunk of a store fails its checksum.
        """
        condition, mask = read_array(self.condition, rows), read_array(self.mask, rows)
        return replace(self, image_ids=self.image_ids[rows], condition=condition, mask=mask)

    def take(self, rows: Sequence[int]) -> "DegradedImages":
        """Images in memory by their row numbers, repeated ones included."""
        ids = tuple(self.image_ids[row] for row in rows)
        return replace(self, image_ids=ids, condition=self.condition[rows], mask=self.mask[rows])

    def noise(self, purpose: str, *, call: str = "") -> FloatArray:
        """Standard normal noise of every image.

        Args:
            purpose: "fill" (what a hole is filled with; the same for every method) or "forward" (noise added to the
                input).
            call: Draws other noise for every name; "" is the noise that belongs to the image.
        Returns:
            (N, C, H, W) float32.
        """
        return np.stack([keyed_normal(self.shape, purpose, *self._key(image_id, call)) for image_id in self.image_ids])

    def classes(self, n_classes: int, *, call: str = "") -> npt.NDArray[np.int64]:
        """A class for every image, (N,), uniform over 0 .. n_classes - 1: a generic prior does not know the right one.

        Args:
            n_classes: How many there are.
            call: As in `noise`.
        """
        draws = [
            keyed_generator("class", *self._key(image_id, call)).integers(n_classes) for image_id in self.image_ids
        ]
        return np.array(draws, dtype=np.int64)

    def _key(self, image_id: str, call: str) -> tuple[int | str, ...]:
        return (self.seed, self.task.name, image_id, *([call] if call else []))
