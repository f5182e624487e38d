"""Quirks of the official code: dropout and fresh random inputs, in one pass and without a trace."""

import pytest
import torch
from torch import Tensor, nn

from conffusion.methods.quirks import NO_QUIRK, Quirk


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(50, 50), nn.Dropout(0.5), nn.BatchNorm1d(50))


def output(net: nn.Module, quirk: Quirk, seed: int = 1) -> Tensor:
    with quirk.applied(net, seed), torch.no_grad():
        return net(torch.ones(4, 50))


def test_without_accident_nothing_is_random() -> None:
    net = network()
    assert torch.equal(output(net, NO_QUIRK), output(net, NO_QUIRK, seed=2))
    assert torch.equal(output(net, Quirk("test", dropout=False)), output(net, NO_QUIRK))


def test_dropout_follows_from_seed_and_call_and_leaves_other_random_numbers_alone() -> None:
    net = network()
    before = net[2].running_mean.clone()
    state = torch.get_rng_state()
    first = output(net, Quirk("a", dropout=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(output(net, Quirk("a", dropout=True)), first)
    assert not torch.equal(output(net, Quirk("b", dropout=True)), first)
    assert not torch.equal(output(net, Quirk("a", dropout=True), seed=2), first)
    assert not torch.equal(output(net, NO_QUIRK), first)
    assert torch.equal(net[2].running_mean, before)  # only dropout is in training mode
    assert not any(module.training for module in net.modules())


def test_evaluation_mode_comes_back_after_an_error() -> None:
    net = network()
    with pytest.raises(RuntimeError, match="lost"), Quirk("a", dropout=True).applied(net, 1):
        raise RuntimeError("lost")
    assert not any(module.training for module in net.modules())
