"""Fitted one-pass predictors: building them, saving them, loading them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from conffusion.errors import CheckpointError
from conffusion.methods.predictor import BoundPredictor
from conffusion.models.checkpoint import load_checkpoint, save_checkpoint
from conffusion.models.networks import Architecture, load_weights


@dataclass(frozen=True)
class PredictorSpec:
    """All that rebuilds a one-pass predictor around its weights.

    Attributes:
        architecture: The network.
        prediction_time: Place in the schedule at which the network is asked, in [0, 1).
        has_holes: Whether the task's condition lacks the evaluated pixels.
        maps_timestep: See `BoundPredictor`.
    """

    architecture: Architecture
    prediction_time: float
    has_holes: bool
    maps_timestep: bool = True

    def build(self, prior: Mapping[str, Tensor] | None) -> BoundPredictor:
        """A predictor that starts from a prior's weights, or from scratch with None."""
        return BoundPredictor(
            self.architecture.build_with_bounds(prior),
            self.architecture.kind,
            self.architecture.build_schedule(),
            self.prediction_time,
            self.has_holes,
            maps_timestep=self.maps_timestep,
        )


def save_predictor(path: str | Path, predictor: BoundPredictor, spec: PredictorSpec, record: Mapping[str, Any]) -> None:
    """Write the predictor's network with everything `load_predictor` needs, and a training record."""
    content = {"predictor": {**asdict(spec), "architecture": spec.architecture.record()}, "training": dict(record)}
    save_checkpoint(path, predictor.network.state_dict(), content)


def load_predictor(path: str | Path) -> tuple[BoundPredictor, dict[str, Any]]:
    """Predictor and training record of a file written by `save_predictor`.

    Raises:
        CheckpointError: If the file is unreadable or holds something else.
    """
    weights, record = load_checkpoint(path)
    if "predictor" not in record:
        raise CheckpointError(f"{path}: holds a prior, not a fitted predictor; give a model.safetensors of a run")
    values = record["predictor"]
    spec = PredictorSpec(**{**values, "architecture": Architecture(**values["architecture"])})
    predictor = spec.build(None)
    try:
        load_weights(predictor.network, weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    predictor.eval()
    return predictor, record["training"]
