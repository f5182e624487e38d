"""Weights files of this project: safetensors with configuration, training record and checksum inside."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from conffusion.errors import CheckpointError
from conffusion.store.files import atomic_path

FORMAT = 1


def save_checkpoint(
    path: str | Path, state: Mapping[str, Tensor], record: Mapping[str, Any], *, dtype: torch.dtype = torch.float32
) -> None:
    """Write weights and their record atomically.

    Args:
        path: File ending in `.safetensors`.
        state: Parameters and buffers by name.
        record: JSON-serialisable: architecture, configuration, training record.
        dtype: Storage type of floating-point tensors; float16 halves the file.
    """
    tensors = {
        name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in state.items()
    }
    content = {"format": FORMAT, "checksum": _checksum(tensors), "record": dict(record)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={"conffusion": json.dumps(content, sort_keys=True)}))


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights (float32) and record of a file written by `save_checkpoint`.

    Raises:
        CheckpointError: If the file is missing, truncated, altered, or not one of this project's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); train or fetch it again") from error
    if "conffusion" not in metadata:
        raise CheckpointError(f"{path}: holds no conffusion record; it is not a checkpoint of this project")
    try:
        content = json.loads(metadata["conffusion"])
        checksum, record = content["checksum"], dict(content["record"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its conffusion record is damaged ({error}); train or fetch it again") from error
    if checksum != _checksum(tensors):
        raise CheckpointError(f"{path}: the weights do not match their checksum; train or fetch it again")
    floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    return floats, record


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
