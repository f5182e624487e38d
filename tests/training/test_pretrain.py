"""Pretraining: the noise, its level and the hole fit together; losses fall; runs repeat."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conffusion.core.device import Device
from conffusion.models.schedules import noise_schedule
from conffusion.models.unet import build_unet
from conffusion.tasks.inpainting import centre_mask
from conffusion.training.loop import Optimisation, Problem
from conffusion.training.pretrain import (
    Classification,
    NoisedBatch,
    NoisePrediction,
    PretrainingImages,
    noise_residual,
    pretrain,
)
from tests import conformance
from tests.methods.small_specs import SPECS

CPU = Device(torch.device("cpu"), bfloat16=False)
SCHEDULE = noise_schedule("cosine", 40, respacing=20)
CENTRE = centre_mask(8, 8, hole=0.5)
GREY = 51  # of every pixel of the constant images; -0.6 in [-1, 1]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield


def constant_images(n_images: int = 12, **changes: Any) -> PretrainingImages:
    target = np.full((n_images, 3, 8, 8), GREY, dtype=np.uint8)
    return PretrainingImages(**{"target": target, "condition": None, "labels": None, **changes})


def losses_of(problem: Problem[Any], rows: Tensor, n_batches: int = 1) -> list[float]:
    """Losses of freshly drawn batches of the same images."""
    generator = torch.Generator().manual_seed(1)
    return [float(problem.loss(problem.draw(rows, generator)).detach()) for _ in range(n_batches)]


class Oracle(nn.Module):
    """Knows that all images are the same grey, so the level tells it the noise exactly; remembers its inputs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind, self.seen = kind, list[tuple[Tensor, Tensor, Tensor | None]]()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen.append((x, level, labels))
        abar = self._abar(level.reshape(-1, 1, 1, 1).double())
        clean = GREY / 127.5 - 1
        return (self.weight * (x[:, -3:] - abar.sqrt() * clean) / (1 - abar).sqrt()).float()

    def _abar(self, level: Tensor) -> Tensor:
        if self._kind == "adm":
            full = torch.from_numpy(noise_schedule("cosine", 40).alphas_cumprod)
            return full[level.long()]
        return level**2 if self._kind == "sr3" else level


@pytest.mark.parametrize("hole", [None, CENTRE], ids=["whole", "hole"])
@pytest.mark.parametrize("kind", ["sr3", "palette", "adm"])
def test_level_tells_the_noise(kind: str, hole: Any) -> None:
    network = Oracle(kind)
    problem = NoisePrediction(network, kind, constant_images(hole=hole), SCHEDULE, CPU)
    assert max(losses_of(problem, torch.arange(12), 20)) < 1e-4
    levels = torch.cat([level.reshape(-1) for _, level, _ in network.seen])
    assert len(levels.unique()) > 15
    if kind == "adm":
        assert set(levels.int().tolist()) <= set(SCHEDULE.timestep_map.tolist())
    else:
        assert 0 < levels.min() and levels.max() < 1


def test_predicting_no_noise_costs_its_variance() -> None:
    network = Oracle("palette")
    with torch.no_grad():
        network.weight.zero_()
    for hole in (None, CENTRE):
        problem = NoisePrediction(network, "palette", constant_images(hole=hole), SCHEDULE, CPU)
        losses = losses_of(problem, torch.arange(12), 30)
        assert np.mean(losses) == pytest.approx(1, abs=0.05)


def test_holes_are_noise_in_both_inputs_and_known_elsewhere() -> None:
    network = Oracle("palette")
    problem = NoisePrediction(network, "palette", constant_images(400, hole=CENTRE), SCHEDULE, CPU)
    losses_of(problem, torch.arange(400))
    ((x, _, _),) = network.seen
    condition, noised = x[:, :3], x[:, 3:]
    hole = condition != np.float32(GREY / 127.5 - 1)
    assert torch.equal(noised[~hole], condition[~hole])
    assert float(condition[hole].mean()) == pytest.approx(0, abs=0.05)
    assert float(condition[hole].std()) == pytest.approx(1, abs=0.05)
    assert (noised[hole] != condition[hole]).all()
    share = hole.float().mean((1, 2, 3))
    assert 0.12 < share.min() and share.max() < 0.4  # boxes of 40 to 60 % of each side
    centred = torch.zeros(8, 8, dtype=torch.bool)
    centred[2:6, 2:6] = True
    assert 0.4 < float((hole[:, 0] == centred).flatten(1).all(1).float().mean()) < 0.65


def test_condition_and_labels_of_the_same_rows_are_shown() -> None:
    n_images = 6
    condition = np.arange(n_images, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), dtype=np.uint8)
    network = Oracle("sr3")
    images = constant_images(n_images, condition=condition, labels=np.arange(n_images))
    losses_of(NoisePrediction(network, "sr3", images, SCHEDULE, CPU), torch.tensor([4, 1]))
    ((x, _, labels),) = network.seen
    assert x.shape == (2, 6, 8, 8)
    np.testing.assert_allclose(x[:, 0, 0, 0], [4 / 127.5 - 1, 1 / 127.5 - 1], rtol=1e-6)
    assert labels is not None and labels.tolist() == [4, 1]


def official_batch(kind: str) -> tuple[dict[str, Any], nn.Module, dict[str, Tensor]]:
    description, _ = conformance.load(f"{kind}/training_loss")
    network = build_unet(kind, {**description["config"], "dropout": 0.0})  # the fixtures are made in evaluation mode
    conformance.fill_state_dict(network, prefix=description["weights"]["prefix"])
    inputs = {name: torch.from_numpy(conformance.make(rule)) for name, rule in description["inputs"].items()}
    return description, network.eval(), inputs


@torch.no_grad()
def test_super_resolution_loss_is_made_of_the_official_residuals() -> None:
    """The official loss sums absolute errors of the predicted noise; ours averages their squares."""
    description, network, inputs = official_batch("sr3")
    level = torch.tensor(description["values"]["continuous_sqrt_alpha_cumprod"])
    hole = torch.ones_like(inputs["HR"])
    batch = NoisedBatch(inputs["HR"], inputs["SR"], hole, inputs["noise"], level**2, torch.zeros(3), None)
    total = noise_residual(network, "sr3", batch, CPU).abs().sum()
    assert float(total) == pytest.approx(description["values"]["loss_sum_L1"], rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False])
def test_inpainting_loss_is_made_of_the_official_residuals(masked: bool) -> None:
    """The official loss averages over all pixels, known ones included; ours over the hole."""
    description, network, inputs = official_batch("palette")
    truth = inputs["truth"]
    mask = inputs["mask"].expand_as(truth)
    hole, condition = mask if masked else torch.ones_like(truth), truth * (1 - mask) + inputs["fill_noise"] * mask
    abar = torch.tensor(description["values"]["gammas_given_to_net"])
    batch = NoisedBatch(truth, condition, hole, inputs["epsilon"], abar, torch.zeros(3), None)
    loss = (noise_residual(network, "palette", batch, CPU) ** 2).mean()
    expected = description["values"]["loss_with_mask" if masked else "loss_without_mask"]
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_equal_logits_cost_the_logarithm_of_the_number_of_classes() -> None:
    network = SPECS["resnext"].architecture.build_prior()
    for parameter in network.fc.parameters():
        nn.init.zeros_(parameter)
    images = PretrainingImages(np.zeros((5, 3, 16, 16), dtype=np.uint8), None, np.arange(5))
    (loss,) = losses_of(Classification(network, images, CPU), torch.tensor([3, 0]))
    assert loss == pytest.approx(math.log(5), rel=1e-5)


def pretrained(kind: str, seed: int, n_steps: int) -> tuple[dict[str, Tensor], list[dict[str, float]], nn.Module]:
    """Weights and loss curve of a small network on smooth random images."""
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (40, 3, 2, 2), dtype=np.uint8)
    target = colours.repeat(8, axis=2).repeat(8, axis=3)
    labels = (colours[:, 0, 0, 0] // 52).astype(np.int64)
    architecture = SPECS[kind].architecture
    torch.manual_seed(7)
    network, schedule = architecture.build_prior(), architecture.build_schedule()
    if schedule is None:
        problem: Problem[Any] = Classification(network, PretrainingImages(target, None, labels), CPU)
    else:
        images = PretrainingImages(
            target,
            target if kind == "sr3" else None,
            labels if kind == "adm" else None,
            centre_mask(16, 16, hole=0.5) if kind == "palette" else None,
        )
        problem = NoisePrediction(network, kind, images, schedule, CPU)
    records, _ = pretrain(problem, Optimisation(n_steps, 20, 5e-3, 0.9), seed)
    return network.state_dict(), records, network


@pytest.mark.parametrize("kind", list(SPECS))
def test_runs_repeat_and_end_with_averaged_weights_in_evaluation_mode(kind: str) -> None:
    first, records, network = pretrained(kind, 1, 4)
    again, same_records, _ = pretrained(kind, 1, 4)
    other, other_records, _ = pretrained(kind, 2, 4)
    assert records == same_records != other_records
    assert not network.training
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize(("kind", "chance"), [("sr3", 1.0), ("resnext", math.log(5))])
def test_losses_fall_below_chance(kind: str, chance: float) -> None:
    _, records, _ = pretrained(kind, 0, 200 if kind == "sr3" else 30)
    assert records[-1]["loss"] < 0.6 * chance
    assert records[-1]["step"] == (200 if kind == "sr3" else 30)
