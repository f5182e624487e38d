"""A learned rescaling of intervals: how far each end should reach, from what the interval and its surroundings show.

Among all sets with the same risk the narrowest gain as much coverage per unit of added width everywhere. Quantile
bounds do not: they spend much width where it gains little coverage. A small network is fitted, on images
that calibrate nothing, to minimise the mean width at the risk that calibration will leave.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy import special

from conffusion.calibration.features import SMALLEST_SIZE, pixel_features
from conffusion.core.arrays import FloatArray, IntArray, check_same_shape
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.core.randomness import keyed_generator
from conffusion.errors import DataError

LOG_LEAST, LOG_MOST = np.log(0.5), np.log(3.0)  # an end moves to between half and three times its usual reach
_LEAST_DEVIATION = 1e-6  # added, so that nothing is divided by 0
CLIP = 4.0  # standard deviations to which features are clipped
_HIDDEN = 32
_STEPS = 500
_BATCH = 8192
_LEARNING_RATE = 1e-2
_WEIGHT_DECAY = 1.0
_SOFTNESS = 0.1  # of a miss, in units of the logarithm of the reach
_PRICE_GAIN = 0.09  # how fast the price of a miss follows the risk
_MAX_PIXELS = 1 << 18  # drawn to fit on
_MAX_EXCESS = 10.0  # of the risk of a batch over the level, in units of the level, that moves the price
_TILE = 64  # pixels of a matrix product, too few for BLAS to share them among threads


@dataclass(frozen=True, eq=False)
class LearnedScale:
    """Reach of both ends of each interval, as a function of `pixel_features`.

    An interval with midpoint m and size w becomes [m - a s w / 2, m + b s w / 2], where a and b lie in [1/2, 3]: it
    shrinks or grows beside others, but is never given up.

    Attributes:
        scale: s, at which the unshaped intervals have the risk of the fit.
        mean: (n_features,) float32, subtracted from the features.
        deviation: (n_features,) float32, what they are then divided by.
        inner: (n_features + 1, 32) float32 weights of the hidden layer, biases last.
        outer: (33, 2) float32 weights of log a and log b, biases last.
    """

    scale: float
    mean: FloatArray
    deviation: FloatArray
    inner: FloatArray
    outer: FloatArray

    def apply(self, lower: FloatArray, upper: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Reshape bounds of whole images.

        Args:
            lower: (N, C, H, W) lower bounds in [0, 1].
            upper: Upper bounds, same shape.
        Returns:
            (lower, upper), float64, not clamped, lower < upper. Each image's depend on its own bounds alone, whatever
            the other images, the layout in memory and the number of threads; other processors may differ in the last
            bits.
        Raises:
            ShapeError: If the shapes differ or are not (N, C, H, W).
            DataError: If the images have another number of channels than those of the fit, or a bound is NaN or
                infinite, be it masked or not.
        """
        low, high = (np.empty(check_same_shape(lower=lower, upper=upper)) for _ in range(2))
        for k in range(len(low)):
            low[k : k + 1], high[k : k + 1] = self._reshape(*_bounds_of(lower, upper, k))
        return low, high

    def _reshape(self, lower: FloatArray, upper: FloatArray) -> tuple[FloatArray, FloatArray]:
        features = pixel_features(lower, upper)
        if len(features) != len(self.mean):
            raise DataError(
                f"bounds have {lower.shape[1]} channels, {len(features)} features, but the family was fitted with"
                f" {len(self.mean)} features: calibrate this kind of image anew"
            )
        logs = self._log_reach(features.reshape(len(features), -1).T)
        middle, half = (lower + upper) / 2, _half_size(lower, upper) * self.scale
        down, up = (np.exp(logs[:, side].astype(np.float64)).reshape(lower.shape) for side in (0, 1))
        return middle - down * half, middle + up * half

    def _log_reach(self, features: FloatArray) -> FloatArray:
        """(n_pixels, 2) logarithms of a and b."""
        hidden = _swish(_affine(_standardise(features, self.mean, self.deviation), self.inner))[0]
        return _squash(_affine(hidden, self.outer))[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {field.name: np.asarray(getattr(self, field.name)).tolist() for field in fields(self)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "LearnedScale":
        """Inverse of `to_dict`."""
        arrays = {name: np.asarray(value, dtype=np.float32) for name, value in record.items() if name != "scale"}
        return cls(scale=float(record["scale"]), **arrays)


@dataclass(frozen=True)
class _Sample:
    """Pixels to fit on.

    Attributes:
        features: (n_pixels, n_features) float32.
        middle: (n_pixels,) float32 midpoints.
        half: (n_pixels,) float32 half sizes.
        target: (n_pixels,) float32 truth.
        starts: (N,) first pixel of each image.
        counts: (N,) pixels of each image.
        weights: (N,) share of each image in the risk; they add up to 1.
    """

    features: FloatArray
    middle: FloatArray
    half: FloatArray
    target: FloatArray
    starts: IntArray
    counts: IntArray
    weights: FloatArray

    def batches(self, generator: np.random.Generator) -> Iterator[IntArray]:
        """Endless positions of pixels: images by their weight, pixels evenly."""
        while True:
            images = generator.choice(len(self.weights), _BATCH, p=self.weights)
            yield self.starts[images] + (generator.random(_BATCH) * self.counts[images]).astype(np.intp)

    def mean_and_deviation(self) -> tuple[FloatArray, FloatArray]:
        """(n_features,) float32 each; double precision in between, so that a constant feature has no deviation."""
        mean = self.features.mean(axis=0, dtype=np.float64)
        deviation = self.features.std(axis=0, dtype=np.float64) + _LEAST_DEVIATION
        return mean.astype(np.float32), deviation.astype(np.float32)

    def critical_quantile(self, level: float) -> float:
        """Scale about the midpoints at which the weighted risk is `level`."""
        critical = np.abs(self.target - self.middle) / self.half
        per_pixel = np.repeat(self.weights / self.counts, self.counts)
        order = np.argsort(critical)
        at = int(np.searchsorted(np.cumsum(per_pixel[order]), 1.0 - level))
        return max(float(critical[order[min(at, len(order) - 1)]]), 1e-3)


def fit_learned_scale(images: LabelledBounds, weights: FloatArray, *, level: float, seed: int = 0) -> LearnedScale:
    """Minimise mean width + price x smoothed misses, with the price that holds the risk at `level`.

    A miss is smoothed as the logistic function of log(distance of the truth / reach) / 0.1, and the price moves with
    the risk of each batch. 500 steps of Adam with decoupled weight decay.

    Args:
        images: Bounds and truth, (N, C, H, W), in memory, of images that calibrate nothing.
        weights: (N,) weight of each image in the risk, adding up to 1.
        level: Risk at which to minimise, in (0, 1).
        seed: Seed of the draws; the result is a function of the arguments.
    Raises:
        ShapeError: If the bounds are not (N, C, H, W).
        DataError: If an image has no evaluated pixel, or a bound or an evaluated truth is NaN or infinite.
    Source:
        Adam with decoupled weight decay: Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2.
    """
    generator = keyed_generator("learned scale", seed)
    sample = _draw(images, weights, generator)
    mean, deviation = sample.mean_and_deviation()
    scale = sample.critical_quantile(level)
    inner = generator.uniform(-1, 1, (len(mean) + 1, _HIDDEN)).astype(np.float32) / np.float32(np.sqrt(len(mean)))
    weights_of = [inner, np.zeros((_HIDDEN + 1, 2), dtype=np.float32)]
    adam = _Adam(weights_of)
    log_price = float(np.log(0.6 * scale * sample.half.mean() / level))
    for step, at in zip(range(_STEPS), sample.batches(generator), strict=False):
        features = _standardise(sample.features[at], mean, deviation)
        batch = _Batch(features, sample.middle[at], sample.half[at] * np.float32(scale), sample.target[at])
        gradients, risk = batch.gradients(weights_of[0], weights_of[1], float(np.exp(log_price)))
        adam.step(weights_of, gradients, _LEARNING_RATE * _schedule(step / _STEPS))
        log_price += _PRICE_GAIN * min((risk - level) / level, _MAX_EXCESS)
    return LearnedScale(scale, mean, deviation, *weights_of)


@dataclass(frozen=True)
class _Batch:
    """Pixels of one step: standardised features, midpoint, half size at the common scale, and truth."""

    features: FloatArray
    middle: FloatArray
    half: FloatArray
    target: FloatArray

    def gradients(self, inner: FloatArray, outer: FloatArray, price: float) -> tuple[list[FloatArray], float]:
        """Gradients of mean width + price x mean smoothed miss with respect to both layers, and the risk."""
        hidden, hidden_slope = _swish(_affine(self.features, inner))
        logs, log_slope = _squash(_affine(hidden, outer))
        slopes, risk = self._slopes(logs, price)
        at_outer = slopes * log_slope / np.float32(len(self.target))
        at_inner = _product(at_outer, outer[:-1].T) * hidden_slope
        return [_weight_gradient(self.features, at_inner), _weight_gradient(hidden, at_outer)], risk

    def _slopes(self, logs: FloatArray, price: float) -> tuple[FloatArray, float]:
        """(n_pixels, 2) derivatives of each pixel's cost by log a and log b, and the share of missed pixels."""
        reach = np.exp(logs) * self.half[:, None]
        room = np.stack([self.middle, 1 - self.middle], axis=1)  # sets are clamped to [0, 1]
        distance = (self.target - self.middle)[:, None] * np.array([-1, 1], dtype=np.float32)
        excess = (np.log(np.maximum(distance, 1e-4 * self.half[:, None])) - np.log(reach)) / np.float32(_SOFTNESS)
        soft = special.expit(excess)
        misses = np.where(distance > 0, soft * (1 - soft) / np.float32(_SOFTNESS), np.float32(0))
        missed = (distance > reach).any(axis=1)
        return np.where(reach < room, reach, np.float32(0)) - np.float32(price) * misses, float(missed.mean())


class _Adam:
    """Adam with decoupled weight decay, which spares the biases in the last row."""

    def __init__(self, weights: list[FloatArray]) -> None:
        self._first = [np.zeros_like(layer) for layer in weights]
        self._second = [np.zeros_like(layer) for layer in weights]
        self._count = 0

    def step(self, weights: list[FloatArray], gradients: list[FloatArray], rate: float) -> None:
        """Move the layers, in place."""
        self._count += 1
        for layer, gradient, first, second in zip(weights, gradients, self._first, self._second, strict=True):
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            mean, square = first / (1 - 0.9**self._count), second / (1 - 0.999**self._count)
            layer[:-1] *= 1 - rate * _WEIGHT_DECAY
            layer -= rate * mean / (np.sqrt(square) + 1e-8)


def _draw(images: LabelledBounds, weights: FloatArray, generator: np.random.Generator) -> _Sample:
    """Evaluated pixels of every image, at most a quarter of a million in all."""
    parts = []
    limit = max(1, _MAX_PIXELS // images.n_images)
    for k, image in enumerate(images.blocks(1)):
        low, high = _bounds_of(image.lower, image.upper, 0)
        truth = np.ascontiguousarray(image.target, dtype=np.float64)
        chosen = np.flatnonzero(image.evaluated)
        if not len(chosen):
            raise DataError(f"the mask selects no pixel in image {k}: leave the image out")
        if not np.isfinite(truth.reshape(-1)[chosen]).all():
            raise DataError(f"target is NaN or infinite at evaluated pixels of image {k}: replace or mask them")
        if len(chosen) > limit:
            chosen = np.sort(generator.choice(chosen, limit, replace=False))
        planes = [(low + high) / 2, _half_size(low, high), truth]
        features = pixel_features(low, high)
        columns = [np.asarray(plane.reshape(-1)[chosen], dtype=np.float32) for plane in planes]
        parts.append((features.reshape(len(features), -1)[:, chosen].T, *columns))
    features, middle, half, truth = (np.concatenate(column) for column in zip(*parts, strict=True))
    counts = np.array([len(part[1]) for part in parts])
    return _Sample(features, middle, half, truth, np.cumsum(counts) - counts, counts, weights)


def _bounds_of(lower: FloatArray, upper: FloatArray, k: int) -> tuple[FloatArray, FloatArray]:
    """Bounds of one image as (1, ...) float64; contiguous, since the order in memory changes how sums are rounded."""
    low, high = (np.ascontiguousarray(array[k : k + 1], dtype=np.float64) for array in (lower, upper))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise DataError(
            "lower or upper has values that are NaN or infinite: features come from whole images, so replace them even"
            " where nothing is evaluated"
        )
    return low, high


def _standardise(features: FloatArray, mean: FloatArray, deviation: FloatArray) -> FloatArray:
    """Features less their mean, in clipped standard deviations."""
    return np.clip((features - mean) / deviation, -CLIP, CLIP)


def _half_size(lower: FloatArray, upper: FloatArray) -> FloatArray:
    return np.maximum(upper - lower, SMALLEST_SIZE) / 2


def _affine(values: FloatArray, layer: FloatArray) -> FloatArray:
    """Weights in all rows of the layer but the last, which holds the biases."""
    return _product(values, layer[:-1]) + layer[-1]


def _weight_gradient(values: FloatArray, slopes: FloatArray) -> FloatArray:
    products = _tiles(values).transpose(0, 2, 1) @ _tiles(slopes)
    return np.concatenate([products.sum(axis=0), slopes.sum(axis=0, keepdims=True)])


def _product(values: FloatArray, matrix: FloatArray) -> FloatArray:
    """values @ matrix, tile by tile: BLAS rounds otherwise for other numbers of threads, and waits for busy cores."""
    return (_tiles(values) @ matrix).reshape(-1, matrix.shape[1])[: len(values)]


def _tiles(values: FloatArray) -> FloatArray:
    """(n_pixels, n) values as (n_tiles, 64, n), filled up with zeros."""
    padded = np.pad(values, [(0, -len(values) % _TILE), (0, 0)])
    return np.ascontiguousarray(padded).reshape(-1, _TILE, values.shape[1])


def _swish(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """x sigmoid(x), and its derivative."""
    gate = special.expit(values)
    return values * gate, gate * (1 + values * (1 - gate))


def _squash(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Smoothly into (log 1/2, log 3), with slope 1 at 0; and the derivative."""
    limit = np.where(values < 0, np.float32(LOG_LEAST), np.float32(LOG_MOST))
    bent = np.tanh(values / limit)
    return limit * bent, 1 - bent**2


def _schedule(progress: float) -> float:
    """Learning rate as a share of the largest: linear over the first tenth, then a half cosine to 0."""
    return progress / 0.1 if progress < 0.1 else 0.5 * (1 + np.cos(np.pi * (progress - 0.1) / 0.9))
