"""Samplers: ancestral steps and chains equal the official ones; DPM-Solver++ is exact where the answer is known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conffusion.models import build_unet
from conffusion.models.denoiser import ClassDenoiser, ConditionalDenoiser
from conffusion.sampling import (
    KnownPixels,
    NoiseSchedule,
    noise_schedule,
    sample_ancestral,
    sample_dpmpp_2m,
)
from conffusion.sampling.samplers import Denoiser, to_storage
from tests import conformance

TOLERANCE = 5e-4
MEAN, STD = 0.1, 0.2  # of every pixel in the analytic case
COSINE = noise_schedule("cosine", 1000)


class Recorder:
    """Remembers what a denoiser is shown, and stops the chain after `limit` calls."""

    class Enough(Exception):
        pass

    def __init__(self, denoiser: Denoiser, limit: int | None = None) -> None:
        self._denoiser, self._limit, self.seen = denoiser, limit, list[Tensor]()

    def __call__(self, x_t: Tensor, abar: float) -> Tensor:
        self.seen.append(x_t)
        if len(self.seen) == self._limit:
            raise Recorder.Enough
        return self._denoiser(x_t, abar)


def tensors(description: dict[str, Any]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(conformance.make(rule)) for key, rule in description["inputs"].items()}


def small_net(kind: str, description: dict[str, Any]) -> torch.nn.Module:
    net = build_unet(kind, description["config"]).eval()
    conformance.fill_state_dict(net, prefix=description["weights"]["prefix"])
    return net


def official_schedule(keys: dict[str, Any]) -> NoiseSchedule:
    return noise_schedule(
        keys["schedule"], keys["n_timestep"], linear_start=keys["linear_start"], linear_end=keys["linear_end"]
    )


def official_case(kind: str) -> tuple[dict[str, Any], dict[str, Any], ConditionalDenoiser, Tensor, KnownPixels | None]:
    """Description, arrays, denoiser, condition and known pixels of a sampling fixture."""
    description, arrays = conformance.load(f"{kind}/sampling")
    inputs = tensors(description)
    known = None
    condition = inputs.get("condition")
    if condition is None:
        truth, hole = inputs["truth"], inputs["mask"]
        condition, known = truth * (1 - hole) + inputs["fill_noise"] * hole, KnownPixels(truth, hole)
    return description, arrays, ConditionalDenoiser(small_net(kind, description), condition), condition, known


def recorded_noise(seed: int, shape: torch.Size, start: Tensor | None = None) -> Callable[[int], Tensor]:
    draws = conformance.Draws(seed)

    def noise(step: int) -> Tensor:
        return start if start is not None and step == 0 else torch.from_numpy(draws.next(shape))

    return noise


@pytest.mark.parametrize("timestep", [0, 1, 100])
@pytest.mark.parametrize("kind", ["sr3", "palette"])
@torch.no_grad()
def test_single_ancestral_step_equals_the_official_one(kind: str, timestep: int) -> None:
    description, arrays, denoiser, _, _ = official_case(kind)
    step = description["single_step"]
    full = official_schedule(step["schedule"])
    rest = slice(0, timestep + 1)
    schedule = NoiseSchedule(full.betas[rest], full.alphas_cumprod[rest], full.timestep_map[rest])
    x_t = tensors(description)["x_t" if kind == "sr3" else "y_t"]
    noise = recorded_noise(step["noise_seed"][str(timestep)], x_t.shape, start=x_t)
    recorder = Recorder(denoiser, limit=2)
    try:
        after = sample_ancestral(recorder, schedule, noise, None)
    except Recorder.Enough:
        after = recorder.seen[1]
    assert conformance.max_diff(description, arrays, f"step_t{timestep}", after) < TOLERANCE


@pytest.mark.parametrize("chain", ["cosine10", "linear6"])
@pytest.mark.parametrize("kind", ["sr3", "palette"])
@torch.no_grad()
def test_ancestral_chain_equals_the_official_one(kind: str, chain: str) -> None:
    description, arrays, denoiser, condition, known = official_case(kind)
    recipe = description["chains"][chain]
    noise = recorded_noise(recipe["noise_seed"], condition.shape, start=None if known is None else condition)
    recorder = Recorder(denoiser)
    final = sample_ancestral(recorder, official_schedule(recipe["schedule"]), noise, known)
    stages = {"after_first_step": recorder.seen[1], "middle": recorder.seen[recipe["middle_is_after_step"]]}
    for name, image in {**stages, "final": final}.items():
        assert conformance.max_diff(description, arrays, f"chain_{chain}_{name}", image) < TOLERANCE, name
        if known is not None:
            outside = (known.hole == 0).expand_as(image)
            assert torch.equal(image[outside], known.image_pm1[outside])


@torch.no_grad()
def test_palette_chain_without_a_mask_starts_from_noise() -> None:
    description, arrays, denoiser, condition, _ = official_case("palette")
    recipe = description["chains"]["linear6_no_mask"]
    noise = recorded_noise(recipe["noise_seed"], condition.shape)
    final = sample_ancestral(denoiser, official_schedule(recipe["schedule"]), noise, None)
    assert conformance.max_diff(description, arrays, "chain_linear6_no_mask_final", final) < TOLERANCE


@pytest.mark.parametrize("step", ["0", "5"])
@torch.no_grad()
def test_class_conditional_network_is_asked_at_the_original_step(step: str) -> None:
    description, arrays = conformance.load("adm/sampling")
    respacing = int(description["config"]["timestep_respacing"])
    schedule = noise_schedule("linear", 1000, linear_start=1e-4, linear_end=0.02, respacing=respacing)
    assert schedule.timestep_map[int(step)] == description["single_step"][step]["net_timestep"]
    denoiser = ClassDenoiser(small_net("adm", description), schedule, torch.tensor(description["y"]))
    x_t = tensors(description)["x_t"]
    a, b = schedule.clean_image_coefficients(int(step))
    clean = (a * x_t - b * denoiser(x_t, schedule.alphas_cumprod[int(step)])).clamp(-1, 1)
    assert conformance.max_diff(description, arrays, f"step_x0_t{step}", clean) < TOLERANCE


def gaussian_denoiser(x_t: Tensor, abar: float) -> Tensor:
    """The best noise prediction where every pixel of x_0 is N(MEAN, STD^2)."""
    return (1 - abar) ** 0.5 * (x_t - abar**0.5 * MEAN) / (abar * STD**2 + 1 - abar)


def start_noise() -> Tensor:
    """Evenly spread quantiles of the standard normal, kept where no clipping occurs."""
    quantiles = torch.linspace(0.005, 0.995, 400, dtype=torch.float64)
    return torch.special.ndtri(quantiles).reshape(1, 1, 20, 20)


def exact_end(start: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Where the probability-flow equation carries a start: the same quantile of the data."""
    abar = schedule.alphas_cumprod[-1]
    return MEAN + STD * (start - abar**0.5 * MEAN) / (abar * STD**2 + 1 - abar) ** 0.5


def first_order(start: Tensor, schedule: NoiseSchedule, n_steps: int) -> Tensor:
    """DDIM at the same noise levels, written out independently (Song et al. 2021, eq. 12 with sigma = 0)."""
    times = np.linspace(schedule.n_timesteps - 1, 0, n_steps + 1).round().astype(int)[:-1]
    levels = [*schedule.alphas_cumprod[times], 1.0]
    x = start
    for abar, following in zip(levels, levels[1:], strict=False):
        noise = gaussian_denoiser(x, abar)
        x = following**0.5 * (x - (1 - abar) ** 0.5 * noise) / abar**0.5 + (1 - following) ** 0.5 * noise
    return x


def solver_error(n_steps: int) -> float:
    start = start_noise()
    end = sample_dpmpp_2m(gaussian_denoiser, COSINE, lambda step: start, None, n_steps)
    return float((end - exact_end(start, COSINE)).abs().max())


def test_higher_order_solver_converges_to_the_exact_samples() -> None:
    errors = {n_steps: solver_error(n_steps) for n_steps in (10, 20, 40, 80, 160)}
    print(errors)
    for n_steps in (10, 20, 40, 80):
        assert errors[2 * n_steps] < errors[n_steps]
    assert errors[160] < 0.005
if __name__ == "__main__":
    s=start_noise()
    for n in (5,10,20,40,80,160,320):
        e=sample_dpmpp_2m(gaussian_denoiser, COSINE, lambda step: s, None, n)
        ex=exact_end(s,COSINE)
        print(n, solver_error(n), float((first_order(s,COSINE,n)-ex).abs().max()), "mean",float(e.mean()),float(ex.mean()),"std ratio",float(e.std()/ex.std()), float(first_order(s,COSINE,n).std()/ex.std()))
    for n in (1,2,10,200,300): 
        sch=noise_schedule("cosine",200)
        print(n,sample_dpmpp_2m(gaussian_denoiser, sch, lambda step: s, None, n).isnan().sum())
