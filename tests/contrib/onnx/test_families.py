"""Set families in torch give the bounds of the NumPy code, within float32."""

import numpy as np
import pytest
import torch

from conffusion.calibration import Calibration
from conffusion.calibration.features import pixel_features as reference_features
from conffusion.contrib.onnx.families import ScaledFamily
from conffusion.contrib.onnx.features import pixel_features
from conffusion.core.choices import FAMILIES
from conffusion.errors import ExportError
from tests import synthetic_families

SHAPES = [(3, 16, 16), (3, 5, 9), (3, 1, 7), (3, 6, 1), (3, 1, 1), (1, 8, 4)]


def rough_bounds(n_images: int, shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth and flat parts, points, and intervals at both ends of the range."""
    generator = np.random.default_rng(seed)
    level = np.cumsum(generator.normal(0, 0.05, (n_images, *shape)), axis=-1) + 0.5
    half = np.where(generator.random(level.shape) < 0.3, 0, generator.exponential(0.05, level.shape))
    return tuple(np.clip(level + side * half, 0, 1).astype(np.float32) for side in (-1, 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_features_are_those_of_the_calibration(shape: tuple[int, ...]) -> None:
    lower, upper = rough_bounds(3, shape)
    expected = reference_features(lower.astype(np.float64), upper.astype(np.float64))
    doubles = pixel_features(*(torch.as_tensor(array).double() for array in (lower, upper)))
    np.testing.assert_allclose(np.moveaxis(doubles.numpy(), -1, 0), expected, atol=2e-6, rtol=1e-6)
    floats = pixel_features(torch.as_tensor(lower), torch.as_tensor(upper))
    np.testing.assert_allclose(np.moveaxis(floats.numpy(), -1, 0), expected, atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("lambda_hat", [0.7, 1.0, 1.8])
def test_bounds_are_those_of_the_calibration(name: str, lambda_hat: float) -> None:
    shape = (3, 16, 16)
    family = synthetic_families.family(name, shape)
    calibration = Calibration(lambda_hat, 0.0, 0.0, 1, 0.1, 0.1, family.name, "wsr", "image", 1, family.shape)
    module = ScaledFamily(family, lambda_hat)
    for bounds in (rough_bounds(4, shape), synthetic_families.images(4, shape)[:2]):
        found = module(*(torch.as_tensor(bound) for bound in bounds))
        for mine, theirs in zip(found, calibration.apply(*bounds), strict=True):
            np.testing.assert_allclose(mine.clamp(0, 1).numpy(), theirs, atol=1e-5)


def test_a_family_of_other_channels_is_refused() -> None:
    with pytest.raises(ExportError, match="make the model anew with `calibration.families"):
        ScaledFamily(synthetic_families.family("learned", (1, 8, 8)), 1.0)
