"""Sampling, fine-tuning and one-pass bounds of SR3 16 to 128: throughput and memory, beside the official code.

Run on a machine with a CUDA GPU, from the root of the repository:
`.venv/bin/python -m benchmarks.gpu --official PATH --output gpu.json`. `--small` runs anywhere.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import (
    Measurement,
    OfficialCode,
    Record,
    Side,
    common_options,
    measure,
    network_of_fixture,
    positive,
    precision_of,
    report,
    set_tf32,
)
from conffusion.core.device import Device, select_device
from conffusion.methods.predictor import BoundPredictor, Bounds
from conffusion.models import UNet
from conffusion.models.schedules import NoiseSchedule, noise_schedule
from conffusion.sampling import ChainSampler, Solver
from conffusion.tasks import DegradedImages, build_task
from conffusion.training.finetune import BoundFitting, TrainingSet
from conffusion.training.loop import Optimisation, train
from conffusion.training.objectives import pinball

PARTS = ("sampling", "finetuning", "one_pass")
OFFICIAL_BATCH = 4  # images per fine-tuning step, in the paper and in the official configuration
LEARNING_RATE = 1e-4
QUANTILE = 0.05
SOLVER_STEPS = 8  # network calls of the default solver in config.yaml
NOTES = """\
- Items are variants (sampling) or images (finetuning, one_pass). Ratios: time per item, ours over official; below 1 is
  faster.
- Official sampling is its own p_sample_loop; the official extraction uses batch 1. Ours includes its random numbers,
  drawn per variant on the CPU, and the copy of the results to the CPU.
- Official fine-tuning is its own network, bound model and losses in a step built here in the order of its loop, which
  cannot be imported: forward, loss, fetching its value, backward, Adam. Reading image files is left out. Ours is the
  package's whole loop; with the larger batch it averages the weights too.
- Peak memory is that of a call above what was held before it: activations, gradients, optimiser state. CUDA only."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        fixture: Conformance fixture whose network is used.
        n_timesteps: Steps of the cosine schedule (paper: 200).
        batch: Variants per sampling call, and the larger batch of the other parts.
        n_steps: Fine-tuning steps per timed call.
    """

    fixture: str
    n_timesteps: int
    batch: int
    n_steps: int


@dataclass(frozen=True)
class Subject:
    """What all parts measure.

    Attributes:
        scale: Sizes.
        network: Ours, with bound heads, on the device.
        schedule: Noise schedule.
        official: The official bound model with the same weights, or None; `baseModel` is its diffusion model.
        precisions: float32, and bfloat16 where `select_device` takes it.
    """

    scale: Scale
    network: UNet
    schedule: NoiseSchedule
    official: Any | None
    precisions: tuple[Device, ...]

    @property
    def device(self) -> torch.device:
        """Where everything runs."""
        return self.precisions[0].torch_device

    def images(self, n_images: int, seed: int = 0) -> Tensor:
        """Stand-ins for images, (n_images, 3, side, side) in [-1, 1]; time does not depend on what they show."""
        side = self.network.config["image_size"]
        shape = (n_images, self.network.out_channels, side, side)
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).mul(2).sub(1).to(self.device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts asked for."""
    options = _parse(arguments)
    set_tf32(options.tf32)
    subject = _subject(options)
    rows = []
    for part in options.parts:
        for title, sides in _SIDES[part](subject):
            measurements = measure(sides, subject.device, options.rounds)
            rows += [_row(title, side, sides, measurements) for side in sides]
    report("gpu", options, subject.device, rows)
    print(f"\n{NOTES}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_options("Throughput and memory of SR3 16 to 128 beside the official code.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--timesteps", type=positive, help="T of the sampling (default: 200, the paper's)")
    parser.add_argument("--batch", type=positive, help="variants per sampling call, and larger batch (default: 32)")
    parser.add_argument("--steps", type=positive, help="fine-tuning steps per timed call (default: 10)")
    parser.add_argument("--tf32", action="store_true", help="allow TensorFloat32 on both sides (default: full float32)")
    return parser.parse_args(arguments)


def _subject(options: argparse.Namespace) -> Subject:
    default = Scale("sr3/small_net", 4, 2, 2) if options.small else Scale("sr3/full_net", 200, 32, 10)
    scale = Scale(
        default.fixture,
        options.timesteps or default.n_timesteps,
        options.batch or default.batch,
        options.steps or default.n_steps,
    )
    auto = select_device(options.device, "auto", options.threads)
    single = Device(auto.torch_device, bfloat16=False)
    network = network_of_fixture(scale.fixture, bounds=True)
    official = _official_bound_model(options.official, network, scale, auto.torch_device) if options.official else None
    single.place(network)
    precisions = (single, auto) if auto.bfloat16 else (single,)
    return Subject(scale, network, noise_schedule("cosine", scale.n_timesteps), official, precisions)


def _official_bound_model(code: OfficialCode, network: UNet, scale: Scale, device: torch.device) -> Any:
    """The official one-pass bound model around the official diffusion model, as its fine-tuning script builds them."""
    diffusion = code.load("sr3", "diffusion").GaussianDiffusion(code.unet(network), network.config["image_size"])
    beta_schedule = {"schedule": "cosine", "n_timestep": scale.n_timesteps, "linear_start": 1e-6, "linear_end": 1e-2}
    diffusion.set_new_noise_schedule(beta_schedule, device)
    options = {"train": {"prediction_time_step": 0, "finetune_loss": "quantile_regression"}}
    model = code.load("bounds", "add_bounds").Conffusion(SimpleNamespace(netG=diffusion), options, device)
    return model.to(device)


def _sampling(subject: Subject) -> list[tuple[str, list[Side]]]:
    """Variants of one image: ours with the paper's sampler and the default one, the official loop."""
    batch, steps = subject.scale.batch, min(SOLVER_STEPS, subject.scale.n_timesteps)
    sides = []
    for device in subject.precisions:
        name = f"ours, batch {batch}, {precision_of(device)}"
        sides.append(Side(name, _drawing(subject, device, "ancestral", 0), batch))
        default = f"{name}, default solver ({steps} calls)"
        sides.append(Side(default, _drawing(subject, device, "dpmpp_2m_sde", steps), batch))
    if subject.official is not None:
        for size in dict.fromkeys((1, batch)):
            call = partial(_draw_officially, subject.official.baseModel, subject.images(size))
            sides.append(Side(f"official, batch {size}, float32", call, size, official=True))
    return [(f"sampling, T = {subject.scale.n_timesteps}", sides)]


def _drawing(subject: Subject, device: Device, solver: str, n_steps: int) -> Callable[[], object]:
    """Draws one batch of variants of one image."""
    batch, condition = subject.scale.batch, subject.images(1).add(1).div(2).cpu().numpy()
    mask = np.ones(condition.shape, dtype=np.uint8)
    inputs = DegradedImages(build_task("super_resolution"), 0, ("image",), condition, mask)
    sampler = ChainSampler(subject.network, subject.schedule, inputs, Solver(solver, n_steps), "uint8", device)
    chains = [(0, variant) for variant in range(batch)]
    return lambda: sampler.launch(chains)()


def _draw_officially(diffusion: Any, condition: Tensor) -> None:
    """One variant of every condition, kept as the official extraction asks for it, and copied to the CPU."""
    diffusion.eval()
    diffusion.p_sample_loop(condition, continous=True).cpu()


def _finetuning(subject: Subject) -> list[tuple[str, list[Side]]]:
    """Images per second of fine-tuning steps, with the official batch size and with a larger one."""
    n_steps, sides = subject.scale.n_steps, []
    for device in subject.precisions:
        for size in dict.fromkeys((OFFICIAL_BATCH, max(OFFICIAL_BATCH, subject.scale.batch))):
            settings = Optimisation(n_steps, size, LEARNING_RATE, ema=0.0 if size == OFFICIAL_BATCH else 0.99)
            call = partial(_finetune, subject, _training_set(subject, size), settings, device)
            sides.append(Side(f"ours, batch {size}, {precision_of(device)}", call, n_steps * size))
    if subject.official is not None:
        call = partial(_finetune_officially, subject.official, _training_set(subject, OFFICIAL_BATCH), n_steps)
        sides.append(Side(f"official, batch {OFFICIAL_BATCH}, float32", call, n_steps * OFFICIAL_BATCH, official=True))
    return [("finetuning", sides)]


def _training_set(subject: Subject, n_images: int) -> TrainingSet:
    condition, truth = subject.images(n_images), subject.images(n_images, seed=1)
    return TrainingSet(condition, torch.ones_like(condition), truth, truth, torch.zeros_like(condition), 0)


def _finetune(subject: Subject, data: TrainingSet, settings: Optimisation, device: Device) -> None:
    """The package's own loop, without a checkpoint that competes."""
    predictor = _predictor(subject)
    train(BoundFitting(predictor, data, pinball, QUANTILE, device), settings)
    predictor.zero_grad()  # the next call's memory starts without gradients, as on the official side


def _finetune_officially(model: Any, data: TrainingSet, n_steps: int) -> None:
    """Steps of the official bound model in the order of the official loop."""
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(n_steps):
        lower, upper = model(data.condition)
        optimiser.zero_grad()
        loss = model.quantile_regression_loss_fn(lower, upper, data.lower)
        loss.item()
        loss.backward()
        optimiser.step()
    optimiser.zero_grad()


def _one_pass(subject: Subject) -> list[tuple[str, list[Side]]]:
    """Bounds of one image, and of many at a time."""
    groups = []
    for size in dict.fromkeys((1, subject.scale.batch)):
        condition = subject.images(size)
        sides = [
            Side(f"ours, {precision_of(device)}", partial(_predict, subject, condition, device), size)
            for device in subject.precisions
        ]
        if subject.official is not None:
            call = partial(_predict_officially, subject.official, condition)
            sides.append(Side("official, float32", call, size, official=True))
        groups.append((f"one_pass, batch {size}", sides))
    return groups


def _predict(subject: Subject, condition: Tensor, device: Device) -> Bounds:
    predictor = _predictor(subject).eval()
    with torch.inference_mode(), device.autocast():
        bounds: Bounds = predictor(condition, torch.ones_like(condition), torch.zeros_like(condition))
    return bounds


def _predict_officially(model: nn.Module, condition: Tensor) -> Any:
    with torch.no_grad():
        return model.eval()(condition)


def _predictor(subject: Subject) -> BoundPredictor:
    return BoundPredictor(subject.network, "sr3", subject.schedule, prediction_time=0.0, has_holes=False)


def _row(title: str, side: Side, sides: Sequence[Side], measurements: dict[str, Measurement]) -> Record:
    """Throughput of one side; of ours also the ratio to every official side of the same measurement."""
    found, references = measurements[side.name], [] if side.official else [other for other in sides if other.official]
    return {
        "measurement": title,
        "side": side.name,
        "items_per_s": 1 / found.median,
        "ms_per_item": 1e3 * found.median,
        "ratios": {other.name: found.ratio_to(measurements[other.name]) for other in references} or None,
        "peak_mib": found.peak_mib,
    }


_SIDES: dict[str, Callable[[Subject], list[tuple[str, list[Side]]]]] = {
    "sampling": _sampling,
    "finetuning": _finetuning,
    "one_pass": _one_pass,
}

if __name__ == "__main__":
    sys.exit(main())
