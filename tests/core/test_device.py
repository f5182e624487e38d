"""Device, precision and threads follow the configuration; what is impossible is refused."""

import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from conffusion.core.device import BatchLimit, Device, select_device
from conffusion.errors import ConfigError

NO_CUDA = not torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _keep_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_cpu_is_taken_where_it_is_asked_for() -> None:
    assert select_device("cpu").torch_device == torch.device("cpu")


@pytest.mark.skipif(not NO_CUDA, reason="this machine has CUDA")
def test_without_cuda_auto_is_the_cpu_and_cuda_is_refused() -> None:
    assert select_device("auto").torch_device.type == "cpu"
    with pytest.raises(ConfigError, match=r"device = 'cuda'.*device: cpu or auto"):
        select_device("cuda")


@pytest.mark.skipif(NO_CUDA, reason="needs a CUDA device")
def test_with_cuda_auto_takes_it() -> None:
    assert select_device("auto").torch_device.type == "cuda"


@pytest.mark.parametrize(("precision", "bfloat16"), [("float32", False), ("bfloat16", True)])
def test_precision_is_that_of_matrix_products(precision: str, bfloat16: bool) -> None:
    device = select_device("cpu", precision)
    layer = nn.Linear(4, 4)
    with torch.no_grad(), device.autocast():
        output = layer(torch.ones(1, 4))
    assert output.dtype == (torch.bfloat16 if bfloat16 else torch.float32)
    assert layer.weight.dtype == torch.float32
    with torch.no_grad():
        assert layer(torch.ones(1, 4)).dtype == torch.float32


def test_threads_are_limited() -> None:
    script = (
        "import torch; from conffusion.core.device import select_device; select_device('cpu', threads=1);"
        "assert torch.get_num_threads() == 1"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"OMP_NUM_THREADS": "4"})


def test_arrays_become_float32_and_networks_channels_last() -> None:
    device = Device(torch.device("cpu"), bfloat16=False)
    tensor = device.tensor([[1, 2]])
    assert (tensor.dtype, tensor.device.type) == (torch.float32, "cpu")
    weight = device.place(nn.Conv2d(4, 4, 3)).weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


# ---- batches that shrink


def run_limited(n_items: int, size: int, room: int, smallest: int = 1) -> tuple[list[int], list[int], BatchLimit]:
    """Items in the order in which they were done, sizes tried, and the limit afterwards; `room` items fit at a time."""
    limit, tried = BatchLimit(size, smallest), []

    def work(part: Sequence[int]) -> list[int]:
        tried.append(len(part))
        if len(part) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(part)

    return [item for part in limit.batches(range(n_items), work) for item in part], tried, limit


@given(st.integers(0, 60), st.integers(1, 70), st.integers(1, 70))
def test_every_item_is_done_once_and_in_order_whatever_fits(n_items: int, size: int, room: int) -> None:
    done, tried, limit = run_limited(n_items, size, room)
    assert done == list(range(n_items))
    assert limit.size == size or limit.size <= room
    assert sum(one > room for one in tried) <= 7  # halved, not tried again and again


def test_one_item_too_many_is_the_end() -> None:
    with pytest.raises(MemoryError, match=r"not even 1 image\(s\) at a time"):
        run_limited(4, 4, 0)
    with pytest.raises(MemoryError, match=r"not even 2 image\(s\) at a time"):
        run_limited(4, 4, 1, smallest=2)


@pytest.mark.parametrize("text", ["DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_lack_of_memory_is_recognised_by_what_libraries_say(text: str) -> None:
    limit = BatchLimit(8)
    limit.shrink(8, RuntimeError(text))
    assert limit.size == 4
    with pytest.raises(RuntimeError, match="shape"):
        limit.shrink(4, RuntimeError("shape mismatch"))
