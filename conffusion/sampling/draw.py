"""J variants of every image, in batches across images; with a precision asked for, as many as each image needs."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from conffusion.core.device import BatchLimit
from conffusion.core.progress import Progress
from conffusion.sampling.adaptive_stopping import AdaptiveStopping
from conffusion.sampling.chains import Chain, ChainSampler
from conffusion.tasks import DegradedImages

_IN_FLIGHT = 2  # batches started but not read: the device computes one while the results of another are handled


@dataclass(frozen=True)
class Drawn:
    """Variants of one image.

    Attributes:
        variants: (n_drawn, C, H, W) in the stored type.
        row: Row of the image.
    """

    variants: npt.NDArray[Any]
    row: int


@dataclass
class _Image:
    """An image whose variants are being drawn."""

    row: int
    target: int  # variants after which to look again
    samples: dict[int, npt.NDArray[Any]] = field(default_factory=dict)

    @property
    def is_due(self) -> bool:
        return len(self.samples) == self.target

    def variants(self) -> npt.NDArray[Any]:
        return np.stack([self.samples[variant] for variant in sorted(self.samples)])


def draw_variants(
    sampler: ChainSampler,
    images: DegradedImages,
    n_variants: int,
    batch_size: int | BatchLimit,
    adaptive_stopping: AdaptiveStopping | None = None,
) -> Iterator[Drawn]:
    """Restorations of every image, in the order of the images (Horwitz and Hoshen 2022, section 3.1, sampled bounds).

    Args:
        sampler: Draws chains of these images.
        images: The images.
        n_variants: J, variants per image; with `adaptive_stopping` the most.
        batch_size: Variants per network call, halved where memory does not suffice; a limit remembers that.
        adaptive_stopping: When to stop drawing for an image; None draws all.
    """
    limit = BatchLimit(batch_size) if isinstance(batch_size, int) else batch_size
    return _Drawing(sampler, images, n_variants, limit, adaptive_stopping).run()


class _Drawing:
    """Batches filled from the oldest images that still need variants."""

    def __init__(
        self,
        sampler: ChainSampler,
        images: DegradedImages,
        n_variants: int,
        limit: BatchLimit,
        adaptive_stopping: AdaptiveStopping | None,
    ) -> None:
        self._sampler, self._images, self._n_variants = sampler, images, n_variants
        self._limit, self._adaptive_stopping = limit, adaptive_stopping
        self._n_images = len(images)
        self._n_opened = 0
        self._drawing: dict[int, _Image] = {}
        self._finished: dict[int, Drawn] = {}
        self._wanted: deque[Chain] = deque()
        self._progress = Progress(f"sampling {images.task.name}", self._n_images * n_variants, unit="variants")

    def run(self) -> Iterator[Drawn]:
        in_flight: deque[tuple[list[Chain], Sequence[Callable[[], npt.NDArray[Any]]]]] = deque()
        next_row = 0
        while next_row < self._n_images:
            if len(in_flight) < _IN_FLIGHT and (chains := self._next_batch()):
                in_flight.append((chains, self._limit.batches(chains, self._sampler.launch)))
                continue
            chains, results = in_flight.popleft()
            self._receive(chains, np.concatenate([wait() for wait in results]))
            while next_row in self._finished:
                yield self._finished.pop(next_row)
                next_row += 1

    def _next_batch(self) -> list[Chain]:
        while len(self._wanted) < self._limit.size and self._n_opened < self._n_images:
            image = _Image(self._n_opened, 0)
            self._drawing[image.row] = image
            self._wanted.extend(self._next_round(image))
            self._n_opened += 1
        return [self._wanted.popleft() for _ in range(min(self._limit.size, len(self._wanted)))]

    def _next_round(self, image: _Image) -> list[Chain]:
        first = image.target
        n_more = self._n_variants if self._adaptive_stopping is None else self._adaptive_stopping.round
        image.target = min(first + n_more, self._n_variants)
        return [(image.row, variant) for variant in range(first, image.target)]

    def _receive(self, chains: Sequence[Chain], samples: npt.NDArray[Any]) -> None:
        self._progress.update(len(chains))
        for (row, variant), sample in zip(chains, samples, strict=True):
            image = self._drawing[row]
            image.samples[variant] = sample
            if image.is_due:
                self._look_at(image)

    def _look_at(self, image: _Image) -> None:
        variants = image.variants()
        is_full = image.target == self._n_variants
        if (
            is_full
            or self._adaptive_stopping is None
            or self._adaptive_stopping.should_stop(variants, self._images.mask[image.row])
        ):
            del self._drawing[image.row]
            self._finished[image.row] = Drawn(variants, image.row)
            self._progress.skip(self._n_variants - image.target)
        else:
            self._wanted.extendleft(reversed(self._next_round(image)))  # before younger images, to bound memory
