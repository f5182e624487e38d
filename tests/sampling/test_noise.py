"""Noise of chains: NumPy's Philox bits on every device, normal, a pure function of (key, step, pixel)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from conffusion.sampling.noise import ChainNoise, box_muller, philox_words

CPU = torch.device("cpu")
NAMES = [(7, "t", "a", 0), (7, "t", "a", 1), (7, "t", "ü", 0)]


@given(
    key=st.tuples(*[st.integers(0, 2**64 - 1)] * 2),
    first=st.integers(0, 10_000),
    n_blocks=st.integers(1, 5),
)
def test_words_are_those_of_numpys_philox(key: tuple[int, int], first: int, n_blocks: int) -> None:
    words = np.array(key, dtype=np.uint64)
    expected = np.random.Philox(key=words, counter=first).random_raw(4 * n_blocks)
    ours = philox_words(torch.from_numpy(words.view(np.int64))[None], first, n_blocks)
    np.testing.assert_array_equal(ours.numpy()[0].view(np.uint64), expected)


def test_words_on_the_device_are_those_that_the_cpu_draws() -> None:
    on_cpu = ChainNoise(NAMES, (3, 5, 7), CPU)
    elsewhere = ChainNoise(NAMES, (3, 5, 7), CPU)
    elsewhere._on_cpu = False  # the path of a GPU, on the CPU's tensors
    for step in range(4):
        np.testing.assert_array_equal(elsewhere(step), on_cpu(step))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_noise_on_a_gpu_agrees() -> None:
    on_cpu, on_gpu = ChainNoise(NAMES, (3, 64, 64), CPU), ChainNoise(NAMES, (3, 64, 64), torch.device("cuda"))
    for step in range(3):
        np.testing.assert_allclose(on_gpu(step).cpu(), on_cpu(step), rtol=0, atol=1e-6)


def test_noise_depends_on_names_step_and_pixel_alone() -> None:
    together = ChainNoise(NAMES, (3, 8, 8), CPU)
    steps = [together(step) for step in range(3)]
    for row, name in enumerate(NAMES):
        alone = ChainNoise([name], (3, 8, 8), CPU)
        for step in range(3):
            assert torch.equal(alone(step)[0], steps[step][row])
    flat = torch.stack(steps).reshape(9, -1)
    correlations = np.corrcoef(flat.numpy())[~np.eye(9, dtype=bool)]
    assert np.abs(correlations).max() < 0.3  # 192 pixels: standard error 0.07


def test_noise_is_normal() -> None:
    noise = ChainNoise([(1, "t", "a", j) for j in range(64)], (3, 32, 32), CPU)
    values = torch.stack([noise(step) for step in range(4)]).numpy().ravel()
    assert stats.kstest(values[::7], "norm").pvalue > 1e-3
    assert values.dtype == np.float32
    assert abs(values.mean()) < 5 / np.sqrt(len(values))
    assert abs(values.std() - 1) < 5 / np.sqrt(2 * len(values))


def test_extreme_words_give_finite_numbers() -> None:
    words = torch.tensor([[0, -1, 1 << 32, (1 << 32) - 1]])
    normal = box_muller(words)
    assert torch.isfinite(normal).all()
    assert normal.abs().max() < 6.8


def test_steps_come_in_order() -> None:
    noise = ChainNoise(NAMES, (1, 2, 2), CPU)
    noise(0)
    with pytest.raises(ValueError, match="the next one is 1"):
        noise(2)
