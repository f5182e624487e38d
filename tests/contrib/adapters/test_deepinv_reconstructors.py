"""deepinv reconstructors as restoration models: real samplers around a closed-form denoiser."""

from typing import Any

import numpy as np
import pytest

from conffusion import CalibratedModel
from conffusion.contrib.adapters import from_deepinv
from conffusion.errors import ConfigError
from tests.test_docs import blocks

pytestmark = pytest.mark.system

SIDE, NOISE = 8, 0.2


@pytest.fixture(scope="module")
def deepinv() -> Any:
    return pytest.importorskip("deepinv", reason="needs deepinv: pip install deepinv")


@pytest.fixture(scope="module")
def physics(deepinv: Any) -> Any:
    return deepinv.physics.Inpainting((1, SIDE, SIDE), mask=0.5, noise_model=deepinv.physics.GaussianNoise(0.05))


@pytest.fixture(scope="module")
def denoiser(deepinv: Any) -> Any:
    class GaussianDenoiser(deepinv.models.Denoiser):
        """Exact for images of independent N(0.5, NOISE^2) pixels."""

        def forward(self, x, sigma, **kwargs):
            level = self._handle_sigma(sigma, batch_size=len(x), ndim=4, reference_tensor=x)
            return (NOISE**2 * x + level**2 * 0.5) / (NOISE**2 + level**2)

    return GaussianDenoiser()


def measurement(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((1, SIDE, SIDE), dtype=np.float32)


def reconstructor(deepinv: Any, denoiser: Any, name: str) -> Any:
    if name == "DDRM":
        return deepinv.sampling.DDRM(denoiser, sigmas=np.linspace(1, 0, 6))
    if name == "DiffPIR":
        return deepinv.sampling.DiffPIR(denoiser, deepinv.optim.L2(), max_iter=5, verbose=False)
    return deepinv.sampling.DPS(denoiser, num_steps=5, verbose=False)


@pytest.mark.parametrize("name", ["DDRM", "DiffPIR", "DPS"])
def test_samples_differ_and_depend_on_the_measurement_alone(
    deepinv: Any, physics: Any, denoiser: Any, name: str
) -> None:
    import torch

    model = from_deepinv(reconstructor(deepinv, denoiser, name), physics, 4)
    state = torch.random.get_rng_state()
    samples = model(measurement())
    torch.testing.assert_close(torch.random.get_rng_state(), state)
    assert samples.shape == (4, 1, SIDE, SIDE) and not samples.requires_grad
    assert not torch.equal(samples[0], samples[1])
    torch.testing.assert_close(model(measurement()), samples, rtol=0, atol=0)
    other = from_deepinv(reconstructor(deepinv, denoiser, name), physics, 4, seed=1)
    assert not torch.equal(other(measurement()), samples)


def test_a_sample_is_what_the_reconstructor_returns(deepinv: Any, physics: Any, denoiser: Any) -> None:
    import torch

    from conffusion.contrib.adapters.common import sample_seed

    sampler = reconstructor(deepinv, denoiser, "DDRM")
    samples = from_deepinv(sampler, physics, 2)(measurement())
    torch.manual_seed(sample_seed(0, measurement(), 1))
    torch.testing.assert_close(samples[1:], sampler(torch.as_tensor(measurement())[None], physics))


def test_mean_and_variance_of_a_chain_become_bounds(deepinv: Any, physics: Any, denoiser: Any) -> None:
    chain = deepinv.sampling.sampling_builder(
        "ULA", deepinv.optim.L2(sigma=0.2), deepinv.optim.ScorePrior(denoiser),
        {"step_size": 0.01, "alpha": 1.0, "sigma": 0.1}, max_iter=200, thinning=1,
    )  # fmt: skip
    answer = from_deepinv(chain, physics, None)(measurement())
    np.testing.assert_allclose((answer.lower + answer.upper) / 2, answer.estimate, atol=1e-6)
    assert answer.estimate.shape == (1, SIDE, SIDE) and (answer.upper > answer.lower).all()


def test_a_plain_reconstructor_gives_one_image_twice(deepinv: Any, physics: Any, denoiser: Any) -> None:
    plain = deepinv.models.ArtifactRemoval(denoiser)
    lower, upper = from_deepinv(plain, physics, None)(measurement())
    assert lower.shape == (1, SIDE, SIDE) and (lower == upper).all()


def test_an_image_may_bring_its_physics(deepinv: Any, physics: Any, denoiser: Any) -> None:
    seen = []

    class Noting(deepinv.models.Reconstructor):
        def forward(self, y, physics):
            seen.append(physics)
            return y

    other = deepinv.physics.Denoising()
    from_deepinv(Noting(), physics, None)(measurement(), physics=other, mask=np.ones((SIDE, SIDE)))
    assert seen == [other]


def test_a_calibrated_sampler_controls_the_risk(deepinv: Any, physics: Any, denoiser: Any) -> None:
    import torch

    def pairs(n_pairs: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(n_pairs):
            target = (0.5 + NOISE * torch.randn((1, SIDE, SIDE), generator=generator)).clamp(0, 1)
            yield physics(target[None])[0], target

    model = from_deepinv(reconstructor(deepinv, denoiser, "DDRM"), physics, 8)
    calibrated = CalibratedModel.calibrate(model, pairs(25, 0), 0.3, 0.2)
    evaluation = calibrated.evaluate(pairs(50, 1))
    assert evaluation.measured.risk < 0.3 and "Risk controlled on these images" in evaluation.verdict


def test_snippet_of_the_page_on_python_runs(deepinv: Any, physics: Any, denoiser: Any) -> None:
    pairs = [(measurement(k), 0.4 + 0.2 * measurement(k)) for k in range(25)]
    names = {"reconstructor": reconstructor(deepinv, denoiser, "DDRM"), "physics": physics, "pairs": pairs}
    (snippet,) = [block for block in blocks("docs/python.md") if "from_deepinv" in block]
    exec(snippet, names)
    assert names["calibrated"].calibration.n == 25


def test_what_is_no_reconstructor_is_refused(deepinv: Any, physics: Any, denoiser: Any) -> None:
    with pytest.raises(ConfigError, match="must be a deepinv.models.Reconstructor; wrap denoisers in"):
        from_deepinv(denoiser, physics, 4)
    with pytest.raises(ConfigError, match="n_samples = 1: must be at least 2"):
        from_deepinv(deepinv.models.ArtifactRemoval(denoiser), physics, 1)
