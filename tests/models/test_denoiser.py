"""What each kind of network is told about the noise, and how its input is put together."""

import pytest
import torch
from torch import Tensor, nn

from conffusion.core.choices import UNET_KINDS
from conffusion.models.denoiser import LEVEL_INPUTS, ClassDenoiser, ConditionalDenoiser, level_input
from conffusion.models.schedules import noise_schedule


class Watched(nn.Module):
    """Returns the sum of its input's halves, and six channels to an unconditional caller; remembers its inputs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.seen = kind, list[tuple[Tensor, Tensor, Tensor | None]]()

    def forward(self, x: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen.append((x, level, labels))
        return torch.cat([x, x + 100], 1) if self.kind == "adm" else x[:, :3] + 10 * x[:, 3:]


def test_every_kind_of_u_net_has_its_level() -> None:
    assert set(LEVEL_INPUTS) == set(UNET_KINDS)


@pytest.mark.parametrize(("kind", "expected"), [("sr3", [[0.5]] * 4), ("palette", [[0.25]] * 4), ("adm", [12.0] * 4)])
def test_level_is_signal_its_square_or_the_original_step(kind: str, expected: list[object]) -> None:
    level = level_input(kind, 0.25, 12, torch.zeros(4, 3, 2, 2, dtype=torch.float64))
    assert level.tolist() == expected
    assert level.dtype == torch.float32


def test_condition_comes_first() -> None:
    network, condition, x_t = Watched("palette"), torch.ones(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0)
    prediction = ConditionalDenoiser(network, condition)(x_t, 0.49)
    ((x, level, labels),) = network.seen
    assert torch.equal(x, torch.cat([condition, x_t], 1))
    torch.testing.assert_close(level, torch.full((2, 1), 0.49))
    assert labels is None
    assert torch.equal(prediction, torch.full_like(x_t, 21))


@pytest.mark.parametrize("labels", [None, torch.tensor([1, 3])])
def test_unconditional_network_is_told_step_and_class_and_its_variances_stay(labels: Tensor | None) -> None:
    schedule = noise_schedule("linear", 1000, respacing=250)
    network, x_t = Watched("adm"), torch.randn(2, 3, 4, 4)
    denoiser = ClassDenoiser(network, schedule, labels)
    for step in (0, 3, 15, 249):
        noise, _ = denoiser(x_t, schedule.alphas_cumprod[step]).split(3, dim=1)
        assert torch.equal(noise, x_t)
    assert [level.tolist() for _, level, _ in network.seen] == [[t, t] for t in (0.0, 12.0, 60.0, 999.0)]
    assert all(shown is labels for _, _, shown in network.seen)
