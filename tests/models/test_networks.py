"""Networks from their description: priors feed the bound networks; differences are named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conffusion.errors import CheckpointError
from conffusion.models.checkpoint import save_checkpoint
from conffusion.models.networks import Architecture, load_prior, load_weights
from tests.methods.small_specs import SPECS

UNETS = ("sr3", "palette", "adm")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield


def trained(architecture: Architecture) -> nn.Module:
    """A prior whose weights, heads included, are those of no initialisation."""
    torch.manual_seed(2)
    network = architecture.build_prior()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


def unet_inputs(kind: str) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3 if kind == "adm" else 6, 16, 16, generator=generator)
    return x, torch.tensor([0.3, 0.7]), torch.tensor([0, 4]) if kind == "adm" else None


@pytest.mark.parametrize("kind", UNETS)
@torch.no_grad()
def test_bound_heads_start_as_the_ordinary_head_of_the_prior(kind: str) -> None:
    architecture = SPECS[kind].architecture
    prior = trained(architecture)
    network = architecture.build_with_bounds(prior.state_dict()).eval()
    expected = prior(*unet_inputs(kind))
    assert expected.std() > 0.01
    for output in network.heads(*unet_inputs(kind)):
        assert torch.equal(output, expected)


@pytest.mark.parametrize("kind", UNETS)
@torch.no_grad()
def test_initial_bounds_of_a_predictor_are_the_ordinary_prediction(kind: str) -> None:
    spec = SPECS[kind]
    predictor = spec.build(trained(spec.architecture).state_dict()).eval()
    condition, noise = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 3, 16, 16)
    bounds = predictor(condition, torch.ones_like(condition), noise, unet_inputs(kind)[2])
    assert torch.equal(bounds.lower, bounds.point)
    assert torch.equal(bounds.upper, bounds.point)


def test_encoder_of_the_prior_is_kept_and_its_decoder_starts_at_zero() -> None:
    architecture = SPECS["resnext"].architecture
    prior = trained(architecture)
    network = architecture.build_with_bounds(prior.state_dict())
    for name, value in prior.state_dict().items():
        assert torch.equal(network.encoder.state_dict()[name], value), name
    with torch.no_grad():
        assert not any(output.any() for output in network.eval().heads(torch.randn(1, 3, 16, 16)))


@pytest.mark.parametrize("kind", list(SPECS))
def test_without_a_prior_the_weights_are_fresh(kind: str) -> None:
    torch.manual_seed(0)
    first = SPECS[kind].architecture.build_with_bounds(None).state_dict()
    second = SPECS[kind].architecture.build_with_bounds(None).state_dict()
    assert any(not torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("kind", list(SPECS))
def test_record_rebuilds_the_architecture(kind: str) -> None:
    architecture = SPECS[kind].architecture
    again = Architecture(**architecture.record())
    assert again.record() == architecture.record()
    shapes = [
        {name: value.shape for name, value in a.build_prior().state_dict().items()} for a in (architecture, again)
    ]
    assert shapes[0] == shapes[1]
    assert architecture.kind == ("encoder" if kind == "resnext" else kind)


def test_differences_are_counted_and_the_first_named() -> None:
    network = nn.Linear(3, 2)
    weights = {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_weights(network, weights)
    message = str(caught.value)
    assert "1 missing, 2 unexpected or of another shape" in message
    assert "bias: (2,) needed, missing found" in message
    assert "weight: (2, 3) needed, (2, 4) found" in message
    assert "extra: not expected needed, (1,) found" in message


def test_only_named_parameters_may_be_lacking() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    weights = {"0.weight": torch.ones(1, 1), "0.bias": torch.ones(1)}
    load_weights(network, weights, may_lack=("1.",))
    assert network[0].weight.item() == network[0].bias.item() == 1
    with pytest.raises(CheckpointError, match=r"1 missing.*0\.bias"):
        load_weights(network, {"0.weight": torch.ones(1, 1)}, may_lack=("1.",))


def stored(folder: Path, architecture: Architecture) -> Path:
    path = folder / "prior.safetensors"
    save_checkpoint(path, trained(architecture).state_dict(), {"architecture": architecture.record()})
    return path


def test_prior_of_the_configured_architecture_loads(tmp_path: Path) -> None:
    architecture = SPECS["sr3"].architecture
    weights = load_prior(stored(tmp_path, architecture), architecture)
    assert set(weights) == set(architecture.build_prior().state_dict())


@pytest.mark.parametrize(
    ("change", "in_file", "asked_for"),
    [
        (
            {"options": {**SPECS["sr3"].architecture.options, "inner_channel": 16}},
            "'inner_channel': 8",
            "'inner_channel': 16",
        ),
        ({"schedule": {"name": "cosine", "n_timesteps": 50}}, "'n_timesteps': 20", "'n_timesteps': 50"),
        ({"network": "palette", "options": SPECS["palette"].architecture.options}, "sr3", "palette"),
    ],
    ids=["options", "schedule", "network"],
)
def test_prior_of_another_architecture_is_refused_with_both(
    change: dict[str, Any], in_file: str, asked_for: str, tmp_path: Path
) -> None:
    architecture = SPECS["sr3"].architecture
    path = stored(tmp_path, architecture)
    with pytest.raises(CheckpointError) as caught:
        load_prior(path, Architecture(**{**architecture.record(), **change}))
    message = str(caught.value)
    assert all(part in message for part in (str(path), in_file, asked_for, "priors_dir: null"))
