"""Fitted predictors survive the file; a wrong file is refused with its name."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from conffusion.errors import CheckpointError
from conffusion.methods.models import PredictorSpec, load_predictor, save_predictor
from conffusion.methods.predictor import BoundPredictor
from conffusion.models.checkpoint import load_checkpoint, save_checkpoint
from tests.methods.small_specs import SPECS


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield


def fitted(spec: PredictorSpec) -> BoundPredictor:
    """A predictor whose weights differ from any initialisation."""
    torch.manual_seed(1)
    predictor = spec.build(None)
    for parameter in predictor.parameters():
        nn.init.normal_(parameter, std=0.1)
    return predictor.eval()


def bounds_of(predictor: BoundPredictor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    condition, noise = (torch.randn(2, 3, 16, 16, generator=generator) for _ in range(2))
    labels = torch.tensor([0, 4]) if getattr(predictor.network, "n_classes", 0) else None
    mask = torch.zeros_like(condition)
    mask[..., 4:12, 4:12] = 1
    with torch.no_grad():
        return torch.stack(predictor(condition.clamp(-1, 1), mask, noise, labels))


@pytest.mark.parametrize("kind", list(SPECS))
def test_predictor_comes_back_with_the_same_bounds_and_record(kind: str, tmp_path: Path) -> None:
    predictor, path = fitted(SPECS[kind]), tmp_path / "model.safetensors"
    record = {"method": "n_conffusion", "step": 40, "learning_rate": 1e-3}
    save_predictor(path, predictor, SPECS[kind], record)
    loaded, training = load_predictor(path)
    assert training == record
    assert not loaded.training
    assert torch.equal(bounds_of(loaded), bounds_of(predictor))


def test_prior_is_not_taken_for_a_fitted_predictor(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    architecture = SPECS["sr3"].architecture
    save_checkpoint(path, architecture.build_prior().state_dict(), {"architecture": architecture.record()})
    with pytest.raises(CheckpointError, match="prior.safetensors: holds a prior.*model.safetensors"):
        load_predictor(path)


def test_weights_of_another_network_are_refused_with_names(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_predictor(path, fitted(SPECS["sr3"]), SPECS["sr3"], {})
    weights, record = load_checkpoint(path)
    name = next(iter(weights))
    weights.pop(name)
    save_checkpoint(path, weights, record)
    with pytest.raises(CheckpointError, match=f"model.safetensors.*another architecture.*{name}"):
        load_predictor(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone.safetensors: cannot be read"):
        load_predictor(tmp_path / "gone.safetensors")
