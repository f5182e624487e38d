"""Weights files: complete round trips; anything altered or foreign is refused with its name."""

import json
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from conffusion.errors import CheckpointError
from conffusion.models.checkpoint import load_checkpoint, save_checkpoint

RECORD: dict[str, Any] = {"architecture": {"network": "sr3", "options": {"a": [1, 2]}}, "training": {"seed": 3}}


def example_state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(4, 3, 3, 3, generator=generator),
        "transposed": torch.randn(5, 4, generator=generator).T,
        "last": torch.randn(4, 3, 2, 2, generator=generator).to(memory_format=torch.channels_last),
        "counter": torch.tensor(12345678901),
        "scalar": torch.tensor(0.5),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "net.safetensors"
    save_checkpoint(file, example_state(), RECORD)
    return file


def test_round_trip_is_exact(path: Path) -> None:
    weights, record = load_checkpoint(path)
    assert record == RECORD
    state = example_state()
    assert set(weights) == set(state)
    for name, value in state.items():
        assert torch.equal(weights[name], value), name
        assert weights[name].dtype == value.dtype
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_half_precision_halves_the_file_and_comes_back_as_float32(path: Path) -> None:
    half = path.with_name("half.safetensors")
    state = {"weight": torch.randn(100, 100)}
    save_checkpoint(path, state, RECORD)
    save_checkpoint(half, state, RECORD, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * path.stat().st_size
    weights, _ = load_checkpoint(half)
    assert weights["weight"].dtype == torch.float32
    assert torch.equal(weights["weight"], state["weight"].half().float())


def tensor_bytes(path: Path) -> range:
    (header,) = struct.unpack("<Q", path.read_bytes()[:8])
    return range(8 + header, path.stat().st_size)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def test_any_altered_weight_byte_is_noticed(path: Path) -> None:
    intact = path.read_bytes()
    for position in random.Random(0).sample(tensor_bytes(path), 50):
        flip(path, position)
        with pytest.raises(CheckpointError, match=r"net.safetensors: the weights do not match their checksum"):
            load_checkpoint(path)
        path.write_bytes(intact)


def test_altered_header_byte_ends_in_a_clear_error_or_leaves_the_weights_alone(path: Path) -> None:
    intact = path.read_bytes()
    weights, _ = load_checkpoint(path)
    refused = 0
    for position in range(0, tensor_bytes(path).start, 5):
        flip(path, position)
        try:
            altered, _ = load_checkpoint(path)
            assert altered.keys() == weights.keys()
            assert all(torch.equal(altered[name], weights[name]) for name in weights)
        except CheckpointError:
            refused += 1
        path.write_bytes(intact)
    assert refused > 10


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_truncated_file_is_refused(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"net.safetensors: cannot be read.*again"):
        load_checkpoint(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone.safetensors: cannot be read"):
        load_checkpoint(tmp_path / "gone.safetensors")


def test_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"foreign.safetensors: holds no conffusion record"):
        load_checkpoint(path)


class Explosive:
    """Unpickling it would create a file."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._target,)


@pytest.mark.parametrize("saved_by", ["pickle", "torch"])
def test_pickle_is_refused_and_not_executed(saved_by: str, tmp_path: Path) -> None:
    path, touched = tmp_path / "model.safetensors", tmp_path / "executed"
    if saved_by == "torch":
        torch.save({"weight": torch.zeros(2), "bomb": Explosive(touched)}, path)
    else:
        path.write_bytes(pickle.dumps(Explosive(touched)))
    with pytest.raises(CheckpointError, match=r"model.safetensors: cannot be read"):
        load_checkpoint(path)
    assert not touched.exists()


def test_record_is_readable_without_this_package(path: Path) -> None:
    """The header of a safetensors file is JSON."""
    header = json.loads(path.read_bytes()[8 : tensor_bytes(path).start])
    assert json.loads(header["__metadata__"]["conffusion"])["record"] == RECORD


def test_failed_write_leaves_the_older_file(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_checkpoint(path, example_state(), {"unserialisable": object()})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
