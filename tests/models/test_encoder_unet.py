"""The U-Net on an encoder: full-size outputs, zero start, small decoder."""

import pytest
import torch

from conffusion.errors import ConfigError, ShapeError
from conffusion.models import EncoderUNet, build_encoder

SMALL = ("resnext_small", "resnest_small")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", [*SMALL, "resnest14d"])
@pytest.mark.parametrize("size", [(32, 32), (64, 32), (30, 45)])
def test_every_head_has_the_input_size_and_starts_at_zero(name: str, size: tuple[int, int]) -> None:
    net = EncoderUNet(build_encoder(name)).eval()
    with torch.no_grad():
        outputs = net.heads(torch.randn(1, 3, *size))
    assert len(outputs) == 3
    for output in outputs:
        assert output.shape == (1, 3, *size)
        assert not output.any()


@pytest.mark.parametrize("name", SMALL)
def test_decoder_is_small(name: str) -> None:
    encoder = build_encoder(name)
    total = sum(value.numel() for value in EncoderUNet(encoder).parameters())
    assert total - sum(value.numel() for value in encoder.parameters()) < 400_000


@pytest.mark.parametrize("name", SMALL)
def test_heads_differ_after_a_step_and_every_used_weight_learns(name: str) -> None:
    torch.manual_seed(0)
    net = EncoderUNet(build_encoder(name))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        x = torch.randn(4, 3, 32, 32)
        point, lower, upper = net.heads(x)
        loss = (point - x).square().mean() + (lower - x + 1).abs().mean() + (upper - x - 1).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    idle = {name for name, value in net.named_parameters() if value.grad is None or not value.grad.any()}
    assert idle == {"encoder.fc.weight", "encoder.fc.bias"}
    assert upper.mean() > lower.mean()


def test_forward_is_the_first_head_and_counts_are_free() -> None:
    net = EncoderUNet(build_encoder("resnext_small"), out_channels=1, n_heads=2).eval()
    torch.nn.init.normal_(net.head_convs[0].weight)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        outputs = net.heads(x)
        assert [tuple(output.shape) for output in outputs] == [(2, 1, 32, 32)] * 2
        torch.testing.assert_close(net(x), outputs[0])
        with torch.autocast("cpu", torch.bfloat16):
            assert net(x).dtype == torch.float32


def test_unfit_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_heads 0"):
        EncoderUNet(build_encoder("resnext_small"), n_heads=0)
    with pytest.raises(ShapeError, match="3, H, W"):
        EncoderUNet(build_encoder("resnext_small")).heads(torch.zeros(1, 4, 32, 32))


def test_standardised_input_is_what_imagenet_classifiers_expect() -> None:
    torch.manual_seed(0)
    seen: list[torch.Tensor] = []
    encoder = build_encoder("resnext_small", n_classes=3)
    network = EncoderUNet(encoder, standardise=True).eval()
    features = encoder.features
    encoder.features = lambda x: seen.append(x) or features(x)  # type: ignore[method-assign,func-returns-value]
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        network.heads((mean * 2 - 1).expand(1, 3, 32, 32))
    torch.testing.assert_close(seen[0], torch.zeros(1, 3, 32, 32), atol=1e-6, rtol=0)
