"""Official checkpoints converted to this project's format."""

import hashlib
from pathlib import Path
from typing import Any

from conffusion.config.schema import RULE_FILLED, PriorSettings
from conffusion.errors import CheckpointError
from conffusion.methods.models import PredictorSpec, save_predictor
from conffusion.models.checkpoint import save_checkpoint
from conffusion.models.official import load_official, official_lambda_hat
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


def import_finetuned(
    name: str, prior: PriorSettings, spec: PredictorSpec, options: str | Path | None, output: str | Path
) -> dict[str, Any]:
    """Write a fine-tuned official network with its bound heads as a predictor, with lambda_hat in its record.

    Args:
        name: Name of the prior whose network it is, for messages.
        prior: The network, and where the fine-tuned official file is (`checkpoint`).
        spec: The predictor around the network.
        options: The official options file that holds lambda_hat; None leaves it out.
        output: File to write, read by `load_predictor`.
    Returns:
        The training record in the file: source, and lambda_hat of the official set family [l / lambda, lambda u].
    Raises:
        CheckpointError: If a file is missing, damaged, hostile, or of another network.
    """
    if prior.checkpoint is None:
        raise CheckpointError(f"priors.{name}.checkpoint: names no file to import")
    predictor = spec.build(None)
    load_official(predictor.network, prior.checkpoint)
    record: dict[str, Any] = {"source": {"file": Path(prior.checkpoint).name, "sha256": sha256(prior.checkpoint)}}
    if options is not None:
        record["lambda_hat"] = official_lambda_hat(options)
    save_predictor(output, predictor, spec, {**record, "step": None})
    return record


def sha256(path: str | Path) -> str:
    """Checksum of a file of any size."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
