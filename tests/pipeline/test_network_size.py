"""Sizes told from settings agree with the networks that these settings build."""

from typing import Any

import pytest
import torch
from torch import Tensor

from conffusion.config import load_config
from conffusion.config.schema import PriorSettings
from conffusion.models.encoders import ENCODERS
from conffusion.pipeline.network_size import network_size
from conffusion.training.priors import architecture_of
from tests.pipeline.configs import ROOT

PRIORS = {
    f"{overlay}/{name}": prior
    for overlay in ("smoke", "medium")
    for name, prior in load_config(ROOT / "config.yaml", ROOT / "config" / f"{overlay}.yaml").priors.items()
}


def encoder(name: str) -> PriorSettings:
    return PriorSettings(network=name, options={"n_classes": 1000}, schedule=None, task=None)  # type: ignore[arg-type]


def varied(name: str, **options: Any) -> PriorSettings:
    prior = PRIORS[f"medium/{name}"]
    return prior.model_copy(update={"options": {**prior.options, **options}})


SEVERAL = {
    **PRIORS,
    **{name: encoder(name) for name in ENCODERS if name not in ("resnext_small", "resnest_small")},  # these stand above
    "wide": varied("sr3_faces", inner_channel=128),
    "deep": varied("palette_faces", res_blocks=3),
    "official widths": varied("adm_photos", channel_mult="", num_channels=96),
}


@pytest.mark.parametrize("prior", SEVERAL.values(), ids=SEVERAL)
def test_parameters_agree_with_the_built_network(prior: PriorSettings) -> None:
    with torch.device("meta"):
        network = architecture_of(prior).build_with_bounds(None)
    exact = sum(parameter.numel() for parameter in network.parameters())
    side = prior.options.get("image_size", 64)
    assert network_size(prior, side).n_parameters == pytest.approx(exact, rel=0.15)


def values_kept(prior: PriorSettings, side: int) -> float:
    """Values per image that autograd keeps from a real forward pass, weights left out."""
    torch.set_num_threads(1)
    network = architecture_of(prior).build_with_bounds(None).train()
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    inputs: list[Tensor] = [torch.zeros(2, getattr(network, "in_channels", 3), side, side)]
    if prior.schedule is not None:
        inputs.append(torch.full((2,), 0.5))
    if getattr(network, "n_classes", 0) and prior.schedule is not None:
        inputs.append(torch.zeros(2, dtype=torch.long))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.heads(*inputs)  # type: ignore[operator]
    return sum(tensor.untyped_storage().nbytes() / 4 for place, tensor in kept.items() if place not in weights) / 2


@pytest.mark.parametrize("name", [name for name, prior in PRIORS.items() if prior.training is not None])
def test_kept_values_agree_with_a_real_pass(name: str) -> None:
    """Of the networks that are small enough for a test; the published ones have the same parts."""
    prior = PRIORS[name]
    side = prior.options.get("image_size", 64)
    assert network_size(prior, side).n_kept == pytest.approx(values_kept(prior, side), rel=0.2)
