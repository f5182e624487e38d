"""Samplers: ancestral chains equal the official ones; both are right where the distribution is known."""

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from conffusion.core.choices import SolverName
from conffusion.errors import ConfigError
from conffusion.models import build_unet
from conffusion.models.denoiser import ClassDenoiser, ConditionalDenoiser
from conffusion.sampling import (
    KnownPixels,
    NoiseSchedule,
    Solver,
    noise_schedule,
    sample_ancestral,
    sample_dpmpp_2m,
)
from conffusion.sampling.chains import to_dtype
from conffusion.sampling.samplers import SAMPLERS, Denoiser
from tests import conformance

TOLERANCE = 5e-4
MEAN, STD = 0.1, 0.2  # of every pixel in the analytic case
COSINE = noise_schedule("cosine", 4000)  # so fine that rounding to its steps does not matter


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
    predicted, _ = denoiser(x_t, schedule.alphas_cumprod[int(step)]).chunk(2, dim=1)
    clean = (a * x_t - b * predicted).clamp(-1, 1)
    assert conformance.max_diff(description, arrays, f"step_x0_t{step}", clean) < TOLERANCE


@torch.no_grad()
def test_chain_with_learned_variances_ends_in_the_official_image() -> None:
    description, arrays = conformance.load("adm/sampling")
    respacing = int(description["config"]["timestep_respacing"])
    schedule = noise_schedule("linear", 1000, linear_start=1e-4, linear_end=0.02, respacing=respacing)
    denoiser = ClassDenoiser(small_net("adm", description), schedule, torch.tensor(description["y"]))
    noise = recorded_noise(description["chain"]["noise_seed"], (1, 3, 32, 32))
    final = sample_ancestral(denoiser, schedule, noise, None)
    assert conformance.max_diff(description, arrays, "chain_final", final) < TOLERANCE


def gaussian_denoiser(x_t: Tensor, abar: float) -> Tensor:
    """The best noise prediction where every pixel of x_0 is N(MEAN, STD^2)."""
    return (1 - abar) ** 0.5 * (x_t - abar**0.5 * MEAN) / (abar * STD**2 + 1 - abar)


def solve(
    n_steps: int, schedule: NoiseSchedule = COSINE, *, stochastic: bool = True
) -> tuple[float, float, list[float]]:
    """Mean and spread of the higher-order sampler's results in the analytic case, and the levels that it visits.

    Without clipping a result is linear in the noises, so its weights can be read off: pixel k gets noise in step k
    alone, the last pixel none at all.
    """
    levels: list[float] = []

    def denoiser(x_t: Tensor, abar: float) -> Tensor:
        levels.append(float(abar))
        return gaussian_denoiser(x_t, abar)

    def noise(step: int) -> Tensor:
        impulses = torch.zeros(1, 1, 1, n_steps + 1, dtype=torch.float64)
        impulses[..., step] = 1
        return impulses

    result = sample_dpmpp_2m(denoiser, schedule, noise, None, n_steps, stochastic=stochastic).flatten()
    weights = result[:-1] - result[-1]
    return float(result[-1]), float(weights.norm()), levels


def ancestral_std(levels: list[float]) -> float:
    """Spread of first-order (ancestral) samples over levels abar from noisy to clean: each step is linear."""
    variance = 1.0
    for abar, before in zip(levels, [*levels[1:], 1.0], strict=True):
        beta = 1 - abar / before
        clean = abar**0.5 * STD**2 / (abar * STD**2 + 1 - abar)  # slope of E[x_0 | x_t]
        slope = (before**0.5 * beta * clean + (1 - beta) ** 0.5 * (1 - before)) / (1 - abar)
        variance = slope**2 * variance + beta * (1 - before) / (1 - abar)
    return float(variance**0.5)


def exact_std(levels: list[float]) -> float:
    """Spread of the clean prediction at the last level when the chain before it is exact."""
    abar = levels[-1]
    return STD * (abar * STD**2 / (abar * STD**2 + 1 - abar)) ** 0.5


@pytest.mark.parametrize("n_steps", [1, 2, 12])
def test_higher_order_sampler_calls_the_network_n_times_at_falling_noise(n_steps: int) -> None:
    _, _, levels = solve(n_steps)
    assert len(levels) == n_steps
    assert (np.diff(levels) > 0).all()
    assert set(levels) <= set(COSINE.alphas_cumprod.tolist())
    assert levels[0] < 1e-3  # the start is taken for pure noise
    assert n_steps == 1 or levels[-1] > 0.99


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("n_steps", [8, 16, 32, 64])
def test_higher_order_sampler_has_the_mean_of_the_data(n_steps: int, stochastic: bool) -> None:
    mean, _, _ = solve(n_steps, stochastic=stochastic)
    assert mean == pytest.approx(MEAN, abs=0.01 * STD)


def test_higher_order_sampler_is_nearer_to_the_exact_spread_than_the_ancestral_one() -> None:
    errors, first_order = {}, {}
    for n_steps in (8, 16, 32, 64):
        _, std, levels = solve(n_steps)
        errors[n_steps] = abs(std / exact_std(levels) - 1)
        first_order[n_steps] = abs(ancestral_std(levels) / exact_std(levels) - 1)
        assert errors[n_steps] < first_order[n_steps] / 2
    assert errors[64] < errors[8] / 16  # first order would give an eighth
    assert first_order[64] > first_order[8] / 16


def test_deterministic_solver_is_of_second_order_too() -> None:
    errors = {}
    for n_steps in (8, 64):
        _, std, levels = solve(n_steps, stochastic=False)
        errors[n_steps] = abs(std / exact_std(levels) - 1)
    assert errors[8] < 0.2
    assert errors[64] < errors[8] / 16


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"sampling.solver 'magic' is unknown; known: {', '.join(sorted(SAMPLERS))}"):
        Solver("magic", 4).n_calls(COSINE)


def test_configured_solvers_are_those_that_exist() -> None:
    assert set(SAMPLERS) == set(get_args(SolverName))


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_network_calls_are_those_that_are_announced(name: str) -> None:
    calls = []

    def counted(x: Tensor, abar: float) -> Tensor:
        calls.append(abar)
        return gaussian_denoiser(x, abar)

    solver, schedule = Solver(name, 4), noise_schedule("cosine", 12)
    solver.sampler.draw(counted, schedule, lambda step: torch.zeros(1, 1, 2, 2), None, 4)
    assert len(calls) == solver.n_calls(schedule) == (12 if name == "ancestral" else 4)


def test_eight_steps_keep_the_spread_of_the_data() -> None:
    _, std, _ = solve(8)
    assert std == pytest.approx(STD, rel=0.15)


def levels_of(schedule: NoiseSchedule, n_steps: int) -> list[float]:
    return solve(n_steps, schedule)[2]


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("n_timesteps", "n_steps"), [(10, 6), (100, 21), (200, 34), (200, 200)])
def test_no_level_is_visited_twice(n_timesteps: int, n_steps: int) -> None:
    mean, std, levels = solve(n_steps, noise_schedule("cosine", n_timesteps))
    assert (np.diff(levels) > 0).all()
    assert np.isfinite([mean, std]).all()


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("n_steps", [11, 30])
def test_more_steps_than_the_schedule_has_are_refused(n_steps: int) -> None:
    with pytest.raises(ConfigError, match="n_steps"):
        solve(n_steps, noise_schedule("cosine", 10))


def test_one_step_returns_the_clean_prediction_at_the_noisiest_level() -> None:
    abar = levels_of(COSINE, 1)[0]
    start = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    samples = sample_dpmpp_2m(gaussian_denoiser, COSINE, lambda step: start, None, 1, stochastic=True)
    expected = (start - (1 - abar) ** 0.5 * gaussian_denoiser(start, abar)) / abar**0.5
    torch.testing.assert_close(samples, expected.clamp(-1, 1), atol=1e-9, rtol=0)


@pytest.mark.parametrize("solver", list(SAMPLERS))
def test_known_pixels_come_back_exactly(solver: str) -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1
    hole = torch.zeros(2, 1, 8, 8)
    hole[..., 2:6, 2:6] = 1

    def noise(step: int) -> Tensor:
        return torch.randn(image.shape, generator=generator)

    schedule = noise_schedule("cosine", 20)
    result = SAMPLERS[solver].draw(gaussian_denoiser, schedule, noise, KnownPixels(image, hole), 4)
    outside = (hole == 0).expand_as(result)
    assert torch.equal(result[outside], image[outside])
    assert not torch.isclose(result[~outside], image[~outside]).any()


def test_ancestral_samples_have_the_mean_and_spread_that_theory_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    shape, schedule = (1, 1, 100, 200), noise_schedule("cosine", 50)
    samples = sample_ancestral(
        gaussian_denoiser, schedule, lambda step: torch.randn(shape, generator=generator, dtype=torch.float64), None
    )
    assert float(samples.mean()) == pytest.approx(MEAN, abs=5 * STD / 20_000**0.5)
    assert float(samples.std()) == pytest.approx(ancestral_std(schedule.alphas_cumprod[::-1].tolist()), rel=0.02)
    assert ancestral_std(COSINE.alphas_cumprod[::-1].tolist()) == pytest.approx(STD, rel=0.01)


def test_stored_types_round_and_clip() -> None:
    samples = torch.tensor([-1.5, -1.0, 0.0, 0.1, 1.0, 2.0])
    assert to_dtype(samples, "uint8").tolist() == [0, 0, 128, 140, 255, 255]
    assert to_dtype(samples, "uint8").dtype == torch.uint8
    for dtype in ("float16", "float32"):
        stored = to_dtype(samples, dtype)
        assert stored.dtype == getattr(torch, dtype)
        torch.testing.assert_close(stored.double(), torch.tensor([0, 0, 0.5, 0.55, 1, 1]).double(), atol=3e-4, rtol=0)
