"""The encoders have the published names and outputs; the small ones are small and can learn."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from conffusion.core.choices import EncoderName
from conffusion.errors import ConfigError, ShapeError
from conffusion.models import build_encoder
from conffusion.models.encoders import ENCODERS
from tests import conformance

TAPS = ("act1", "layer1", "layer2", "layer3", "layer4")
SMALL = ("resnext_small", "resnest_small")
TOLERANCE = 2e-5  # of the largest magnitude among feature maps, at least 1
PUBLISHED = [
    "resnest14d",
    "resnext50_32x4d",
    pytest.param("resnest101e", marks=pytest.mark.system),
    pytest.param("resnext101_32x8d", marks=pytest.mark.system),
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_encoder_matches_reference_feature_maps_and_logits(name: str) -> None:
    description, arrays = conformance.load(f"encoders/{name}")
    encoder = build_encoder(name).eval()
    conformance.fill_state_dict(encoder)
    x = torch.from_numpy(conformance.make(description["inputs"]["x"]))
    with torch.no_grad():
        outputs = dict(zip((*TAPS, "logits"), (*encoder.features(x), encoder(x)), strict=True))
    for tap, output in outputs.items():
        allowed = TOLERANCE * max(1.0, float(output.abs().max()))
        assert conformance.max_diff(description, arrays, tap, output) < allowed, tap


@pytest.mark.parametrize("name", ["resnest14d", "resnest101e", "resnext50_32x4d", "resnext101_32x8d"])
def test_names_shapes_and_types_are_published(name: str) -> None:
    with torch.device("meta"):
        state = build_encoder(name).state_dict()
    ours = [[key, list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()]
    assert ours == conformance.load(f"encoders/{name}")[0]["keys"]


@pytest.mark.parametrize("name", SMALL)
def test_small_encoders_are_small_and_keep_their_resolution(name: str) -> None:
    encoder = build_encoder(name, n_classes=7).eval()
    assert sum(value.numel() for value in encoder.parameters()) < 1_000_000
    x = torch.zeros(2, 3, 32, 32)
    with torch.no_grad():
        shapes = [tuple(feature.shape) for feature in encoder.features(x)]
        assert encoder(x).shape == (2, 7)
    sides = (16, 16, 8, 4, 2)
    channels = ENCODERS[name].feature_channels
    assert shapes == [(2, width, side, side) for width, side in zip(channels, sides, strict=True)]


@pytest.mark.parametrize("name", SMALL)
def test_small_encoders_learn_orientation_of_noisy_stripes(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name, n_classes=2)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(25):
        x, labels = _stripes(16, generator)
        optimizer.zero_grad()
        F.cross_entropy(encoder(x), labels).backward()
        optimizer.step()
    x, labels = _stripes(200, generator)
    with torch.no_grad():
        # Batch statistics: the running ones are not settled after so few steps.
        accuracy = (encoder(x).argmax(1) == labels).float().mean()
    assert accuracy > 0.9


def _stripes(n_images: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(0, 2, (n_images,), generator=generator)
    phase = 6.3 * torch.rand(n_images, 1, generator=generator)
    wave = torch.sin(0.8 * torch.arange(32) + phase)[:, None, :, None].expand(-1, 3, 32, 32)
    clean = torch.where(labels[:, None, None, None] == 1, wave, wave.transpose(2, 3))
    return 0.5 * clean + 0.3 * torch.randn(n_images, 3, 32, 32, generator=generator), labels


def test_more_branches_and_groups_of_split_attention_keep_shapes() -> None:
    from conffusion.models.encoders import SplitAttention

    block = SplitAttention(16, groups=2, radix=4, stride=2)
    assert block(torch.randn(2, 16, 8, 8)).shape == (2, 16, 4, 4)


def test_configured_encoders_are_those_that_exist() -> None:
    assert set(get_args(EncoderName)) == set(ENCODERS)


def test_unknown_names_and_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnext_small'"):
        build_encoder("resnxt_small")
    with pytest.raises(ConfigError, match="n_classes"):
        build_encoder("resnext_small", n_classes=0)
    with pytest.raises(ShapeError, match="3, H, W"):
        build_encoder("resnext_small").features(torch.zeros(1, 1, 32, 32))
