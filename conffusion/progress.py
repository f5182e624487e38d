"""Progress with an estimate of the time left, as plain log lines that read well in a terminal and in a file."""

import logging
import time
from collections.abc import Callable

LOGGER = logging.getLogger("conffusion.progress")


def format_duration(seconds: float) -> str:
    """Duration as `1h02m`, `3m20s` or `12s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


class Progress:
    """Counts finished items and logs rate and time left at most every `interval` seconds.

    Args:
        label: What is being done, for example "sampling inpainting/test".
        total: Number of items.
        unit: Name of one item, in the plural.
        interval: Seconds between two log lines.
        clock: Source of the time in seconds; replaceable for tests.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        unit: str = "items",
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._total, self._unit, self._interval, self._clock = label, total, unit, interval, clock
        self._done = 0
        self._start = self._last = clock()

    def update(self, n_items: int = 1) -> None:
        """Record `n_items` more finished items."""
        self._done += n_items
        now = self._clock()
        if now - self._last >= self._interval or self._done >= self._total:
            self._last = now
            LOGGER.info("%s", self.line(now - self._start))

    def skip(self, n_items: int) -> None:
        """Record that `n_items` turned out not to be needed."""
        self._total -= n_items

    def line(self, elapsed: float) -> str:
        """The progress line after `elapsed` seconds."""
        rate = self._done / max(elapsed, 1e-9)
        left = format_duration((self._total - self._done) / max(rate, 1e-9))
        share = 100 * self._done / max(self._total, 1)
        return (
            f"{self._label}: {self._done}/{self._total} {self._unit} ({share:.0f} %), "
            f"{rate:.1f} {self._unit}/s, {format_duration(elapsed)} elapsed, {left} left"
        )
