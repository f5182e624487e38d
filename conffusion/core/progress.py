"""Progress with an estimate of the time left, as plain log lines that read well in a terminal and in a file."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

LOGGER = logging.getLogger("conffusion.core.progress")


def format_duration(seconds: float) -> str:
    """Duration as `1h02m`, `3m20s` or `12s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


@dataclass(frozen=True)
class Reading:
    """How far a piece of work has come.

    Attributes:
        label: What is being done.
        done: Finished items.
        total: Number of items.
        unit: Name of one item, in the plural.
        elapsed: Seconds since the start.
    """

    label: str
    done: int
    total: int
    unit: str
    elapsed: float

    @property
    def rate(self) -> float:
        """Items per second so far."""
        return self.done / max(self.elapsed, 1e-9)

    @property
    def left(self) -> float:
        """Seconds that the rest takes at the rate so far."""
        return (self.total - self.done) / max(self.rate, 1e-9)

    @property
    def percent(self) -> float:
        """Share of the items that is finished, in percent."""
        return 100 * self.done / max(self.total, 1)

    def __str__(self) -> str:
        """The progress line."""
        return (
            f"{self.label}: {self.done}/{self.total} {self.unit} ({self.percent:.0f} %), "
            f"{self.rate:.1f} {self.unit}/s, {format_duration(self.elapsed)} elapsed, {format_duration(self.left)} left"
        )


class Progress:
    """Counts finished items and logs rate and time left at most every `interval` seconds.

    Every log record carries its `Reading` as the attribute `progress`, for handlers that want numbers; None for a part
    of a larger piece of work.

    Args:
        label: What is being done, for example "sampling inpainting/test".
        total: Number of items.
        unit: Name of one item, in the plural.
        interval: Seconds between two log lines.
        part: Whether this is a part of a larger piece of work: it is silent then if it ends within the first interval.
        clock: Source of the time in seconds; replaceable for tests.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        unit: str = "items",
        interval: float = 5.0,
        part: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._total, self._unit, self._interval, self._clock = label, total, unit, interval, clock
        self._done, self._part = 0, part
        self._start = self._last = clock()

    def update(self, n_items: int = 1) -> None:
        """Record `n_items` more finished items."""
        self._done += n_items
        now = self._clock()
        is_end = self._done >= self._total and not (self._part and now - self._start < self._interval)
        if now - self._last >= self._interval or is_end:
            self._last = now
            reading = self.reading(now - self._start)
            LOGGER.info("%s", reading, extra={"progress": None if self._part else reading})

    def skip(self, n_items: int) -> None:
        """Record that `n_items` turned out not to be needed."""
        self._total -= n_items

    def reading(self, elapsed: float) -> Reading:
        """Where the work stands after `elapsed` seconds."""
        return Reading(self._label, self._done, self._total, self._unit, elapsed)
