"""The fastest batch size: measured once, remembered for the device and the network, halted by memory."""

import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from conffusion.core.device import Device
from conffusion.sampling.batch_size import fastest_batch_size
from conffusion.store.cache import cache_folder

CPU = Device(torch.device("cpu"), bfloat16=False)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("conffusion.sampling.batch_size._MIN_SECONDS", 0.0)


def cache_file() -> Path:
    folder = cache_folder()
    assert folder is not None
    return folder / "batch_sizes.json"


class Machine:
    """A device on which every call costs 20 ms, and every item beyond 8 as much as 4 below; memory holds 16 items."""

    def __init__(self, memory: int = 16) -> None:
        self.memory, self.calls = memory, 0

    def run(self, size: int) -> None:
        self.calls += 1
        if size > self.memory:
            raise RuntimeError("CUDA out of memory")
        time.sleep(0.02 + 0.001 * size + 0.008 * max(0, size - 8))


def test_fastest_size_is_found_and_remembered() -> None:
    network, machine = nn.Linear(3, 4), Machine()
    assert fastest_batch_size(network, (3, 8, 8), CPU, machine.run) == 8
    calls = machine.calls
    assert fastest_batch_size(network, (3, 8, 8), CPU, machine.run) == 8
    assert machine.calls == calls
    assert list(json.loads(cache_file().read_text()).values()) == [8]


def test_memory_ends_the_search() -> None:
    assert fastest_batch_size(nn.Linear(3, 4), (3, 8, 8), CPU, Machine(memory=5).run) == 4


def test_other_networks_images_and_precisions_are_measured_for_themselves() -> None:
    machine = Machine(memory=2)
    network, counts = nn.Linear(3, 4), []
    for some, shape, device in (
        (network, (3, 8, 8), CPU),
        (nn.Linear(3, 5), (3, 8, 8), CPU),
        (network, (3, 8, 9), CPU),
        (network, (3, 8, 8), Device(CPU.torch_device, bfloat16=True)),
    ):
        fastest_batch_size(some, shape, device, machine.run)
        counts.append(len(json.loads(cache_file().read_text())))
    assert counts == [1, 2, 3, 4]


def test_other_errors_and_an_item_that_does_not_fit_are_raised() -> None:
    def broken(size: int) -> None:
        raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        fastest_batch_size(nn.Linear(3, 4), (3, 8, 8), CPU, broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        fastest_batch_size(nn.Linear(3, 4), (3, 8, 8), CPU, Machine(memory=0).run)


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"a": "b"}', "{"])
def test_a_damaged_memory_is_measured_anew(content: str) -> None:
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(content)
    assert fastest_batch_size(nn.Linear(3, 4), (3, 8, 8), CPU, Machine(memory=1).run) == 1
