"""The fastest batch size of a network on a device, measured once and remembered."""

import hashlib
import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from conffusion.core.device import Device, is_out_of_memory
from conffusion.errors import StoreError
from conffusion.store import read_json, write_json
from conffusion.store.cache import cache_folder

LOGGER = logging.getLogger(__name__)
LARGEST = 1024
_GOOD_ENOUGH = 0.97  # of the best rate: the smallest such batch leaves memory for others
_MIN_SECONDS = 0.5


def cache_file() -> Path | None:
    """Where batch sizes are remembered; None where nothing is to be (see `conffusion.store.cache`)."""
    folder = cache_folder()
    return folder / "batch_sizes.json" if folder else None


def fastest_batch_size(network: nn.Module, shape: tuple[int, ...], device: Device, run: Callable[[int], None]) -> int:
    """Batch size with the most items per second, the smallest of those within 3 % of it; remembered.

    Sizes 1, 2, 4, ... are tried until the rate has fallen twice, memory runs out, or 1,024 is reached. What is
    remembered belongs to one device, network, image shape, precision and number of threads, so that a repeated job
    draws the same batches, and with them the same bits.

    Args:
        network: Names what is remembered, by the shapes of its parameters.
        shape: Of one image, likewise.
        device: Device and precision.
        run: Processes a batch of the given size to its end.
    """
    file, key = cache_file(), _key(network, shape, device)
    remembered = _read(file)
    if key in remembered:
        return remembered[key]
    chosen = _measure(run)
    LOGGER.info("fastest batch size on this device: %d (remembered in %s)", chosen, file)
    if file is not None:
        try:
            write_json(file, {**_read(file), key: chosen})
        except StoreError as error:
            LOGGER.warning("%s: the batch size cannot be remembered (%s)", file, error)
    return chosen


def _measure(run: Callable[[int], None]) -> int:
    rates: dict[int, float] = {}
    n_falls, size = 0, 1
    while size <= LARGEST and n_falls < 2:
        try:
            run(size)  # warms up
            rates[size] = _rate(run, size)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or not rates:
                raise
            break
        n_falls = n_falls + 1 if rates[size] < max(rates.values()) else 0
        size *= 2
    return min(size for size, rate in rates.items() if rate >= _GOOD_ENOUGH * max(rates.values()))


def _rate(run: Callable[[int], None], size: int) -> float:
    """Items per second, over at least two runs and half a second."""
    start, n_runs = time.perf_counter(), 0
    while n_runs < 2 or time.perf_counter() - start < _MIN_SECONDS:
        run(size)
        n_runs += 1
    return n_runs * size / (time.perf_counter() - start)


def _key(network: nn.Module, shape: tuple[int, ...], device: Device) -> str:
    shapes = [(name, tuple(parameter.shape)) for name, parameter in network.named_parameters()]
    is_cuda = device.torch_device.type == "cuda"
    name = torch.cuda.get_device_name(device.torch_device) if is_cuda else f"{platform.node()} {platform.machine()}"
    how = (device.bfloat16, device.compiles, torch.get_num_threads(), torch.__version__)
    digest = hashlib.blake2b(repr((shapes, shape, how)).encode(), digest_size=8).hexdigest()
    return f"{name} {digest}"


def _read(file: Path | None) -> dict[str, int]:
    try:
        return {str(key): int(value) for key, value in read_json(file).items()} if file else {}
    except (StoreError, AttributeError, TypeError, ValueError):  # damaged: made again
        return {}
