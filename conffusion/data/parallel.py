"""One function on many files by several threads, with progress; decoders let other threads run while they work."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from conffusion.core.progress import Progress

T = TypeVar("T")
R = TypeVar("R")

DEFAULT_WORKERS = min(os.cpu_count() or 1, 16)
N_FILES_WITH_PROGRESS = 300  # fewer are done before anybody wonders


def map_files(function: Callable[[T], R], files: Sequence[T], *, workers: int, label: str) -> list[R]:
    """Results in the order of `files`; at most `workers` calls are under way at a time.

    Args:
        function: What to do with one file; must be safe in several threads.
        files: The files, or whatever stands for one file each.
        workers: Number of threads, at least 1; the results do not depend on it.
        label: What is being done, for the progress lines of 300 files or more.
    Raises:
        Exception: Whatever `function` raised for the first of the files that it failed on; later files are left out.
    """
    progress = Progress(label, len(files), unit="files") if len(files) >= N_FILES_WITH_PROGRESS else None
    results = []
    with ThreadPoolExecutor(workers) as pool:
        for result in pool.map(function, files):
            results.append(result)
            if progress is not None:
                progress.update()
    return results
