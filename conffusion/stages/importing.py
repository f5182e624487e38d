"""Official checkpoints converted to this project's format."""

import hashlib
from pathlib import Path
from typing import Any

from conffusion.config.schema import RULE_FILLED, PriorSettings
from conffusion.errors import CheckpointError
from conffusion.models.checkpoint import save_checkpoint
from conffusion.models.official import load_official
from conffusion.models.rule_weights import fill_by_rule
from conffusion.training.priors import architecture_of

_CHUNK = 1 << 24


def import_prior(name: str, prior: PriorSettings, output: str | Path) -> dict[str, Any]:
    """Write an official checkpoint as safetensors, with its configuration and the source's checksum inside.

    Args:
        name: Name of the prior, for messages.
        prior: The network, and where its official file is (`checkpoint`).
        output: File to write.
    Returns:
        The record in the file.
    Raises:
        CheckpointError: If the file is missing, damaged, hostile, or of another network.
    """
    architecture = architecture_of(prior)
    network = architecture.build_prior()
    if prior.checkpoint is None:
        raise CheckpointError(f"priors.{name}.checkpoint: names no file to import")
    source: dict[str, Any] = {"file": RULE_FILLED}
    if prior.checkpoint == RULE_FILLED:
        fill_by_rule(network)
    else:
        load_official(network, prior.checkpoint)
        source = {"file": Path(prior.checkpoint).name, "sha256": sha256(prior.checkpoint)}
    record = {"architecture": architecture.record(), "source": source}
    save_checkpoint(output, network.state_dict(), record)
    return record


def sha256(path: str | Path) -> str:
    """Checksum of a file of any size."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
