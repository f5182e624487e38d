"""Restoration models of any kind: how they are called, and how their answers become bounds."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np

from conffusion.bounds import sampled_bounds, sort_bounds
from conffusion.core.arrays import ArrayLike, FloatArray, as_numpy
from conffusion.errors import DataError, ShapeError
from conffusion.inference.interval import EstimateKind, UncalibratedInterval, checked_mask

Quantiles = tuple[float, float]
_ANSWERS = "samples (J, C, H, W), a tuple (lower, upper), or an object with .lower and .upper"


class RestorationModel(Protocol):
    """Any callable that restores one image and says how sure it is.

    Called as `model(image)`, with `mask=` where the image has a mask, and with the options of the image. It returns one
    of these, as NumPy arrays or torch tensors on any device, with values about [0, 1]:

    - samples, (J, C, H, W) with J of at least 2: draws of what the image may have been,
    - a tuple (lower, upper), each (C, H, W), or (H, W) for grey,
    - an object with `.lower` and `.upper`, and maybe `.estimate`, such as `Interval`.

    It must not learn from the images that calibrate it.
    """

    def __call__(self, image: Any, /, **given: Any) -> Any:
        """Restore one image."""


@dataclass(frozen=True, eq=False)
class Pair:
    """An image with its truth; a plain tuple of the first two, or more, will do.

    Attributes:
        image: What the model takes, usually (C, H, W) in [0, 1]; handed on as it is.
        target: (C, H, W), or (H, W) for grey: the truth in [0, 1].
        mask: (H, W), 1 where pixels are restored and judged; handed to the model. The others are known, and their
            intervals are points. None: all are restored, and the model is told of no mask.
        group: Label of what the image shares with others (person, scan, scene); None: it is its own group. All pairs
            have one, or none has.
        options: More for the model, as keywords.
    """

    image: Any
    target: ArrayLike
    mask: ArrayLike | None = None
    group: Any | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def restore_image(
    model: RestorationModel, image: Any, mask: ArrayLike | None, options: Mapping[str, Any], quantiles: Quantiles
) -> UncalibratedInterval:
    """Ask a model for one image.

    Args:
        model: The model.
        image: As in `Pair`.
        mask: As in `Pair`.
        options: As in `Pair`.
        quantiles: Of samples, that make the bounds.
    Raises:
        ShapeError: If the answer has another form, or the mask another shape.
        DataError: If the answer holds NaN or infinite values, or the mask other values than 0 and 1, or no 1.
    """
    if mask is None:
        return UncalibratedInterval(*_bounds_of(model(image, **options), quantiles))
    hole = checked_mask(mask)
    lower, upper, estimate, kind = _bounds_of(model(image, mask=hole, **options), quantiles)
    known = _floats(image)
    if known.shape != lower.shape or hole.shape != lower.shape[1:]:
        raise ShapeError(
            f"with a mask, image, mask and restored image have one size, since the image is known where the mask is 0; "
            f"they have shapes {known.shape}, {hole.shape} and {lower.shape}"
        )
    return UncalibratedInterval(lower, upper, np.where(hole == 1, estimate, known), kind, hole)


def restore_pairs(
    model: RestorationModel, pairs: Iterable[Any], quantiles: Quantiles
) -> Iterator[tuple[Pair, UncalibratedInterval]]:
    """A model's answers for pairs, one after another; each pair with its target as (C, H, W) float32.

    Raises:
        ShapeError: If an answer does not fit its truth; the message says which pair.
        DataError: If a pair has no truth in [0, 1], or only some have groups; likewise.
    """
    has_groups = None
    for number, given in enumerate(pairs):
        try:
            pair = _checked_pair(given)
            interval = restore_image(model, pair.image, pair.mask, pair.options, quantiles)
            target = _checked_target(pair.target, interval.lower.shape)
        except (ShapeError, DataError) as error:
            raise type(error)(f"pair {number}: {error}") from error
        has_groups = (pair.group is not None) if has_groups is None else has_groups
        if has_groups != (pair.group is not None):
            raise DataError(f"pair {number}: {'has no group' if has_groups else 'has a group'}, unlike those before it")
        yield replace(pair, target=target), interval
    if has_groups is None:
        raise DataError("there are no pairs: give at least one (image, target)")


def _bounds_of(answer: Any, quantiles: Quantiles) -> tuple[FloatArray, FloatArray, FloatArray, EstimateKind]:
    """lower, upper and estimate of an answer, each (C, H, W) float64, and what the estimate is."""
    estimate: FloatArray | None = None
    kind: EstimateKind = "midpoint"
    if hasattr(answer, "lower") and hasattr(answer, "upper"):
        lower, upper = _answered(answer.lower), _answered(answer.upper)
        if getattr(answer, "estimate", None) is not None:
            estimate, kind = _answered(answer.estimate), getattr(answer, "estimate_kind", "point_head")
    elif isinstance(answer, tuple) and len(answer) == 2:
        lower, upper = (_answered(bound) for bound in answer)
    elif hasattr(answer, "shape") and len(answer.shape) == 4 and answer.shape[0] > 1:
        samples = _answered(answer)
        lower, upper = sampled_bounds(samples, *quantiles)
        estimate, kind = samples.mean(axis=0), "mean_of_variants"
    else:
        form = f"shape {tuple(answer.shape)}" if hasattr(answer, "shape") else f"a {type(answer).__name__}"
        raise ShapeError(f"the model returned {form}: give {_ANSWERS}")
    estimate = (lower + upper) / 2 if estimate is None and lower.shape == upper.shape else estimate
    if estimate is None or not lower.shape == upper.shape == estimate.shape or lower.ndim != 3:
        raise ShapeError(f"the model returned bounds of shapes {lower.shape} and {upper.shape}: both must be (C, H, W)")
    lower, upper, _ = sort_bounds(lower, upper)
    return lower, upper, estimate, kind


def _checked_pair(given: Any) -> Pair:
    if isinstance(given, Pair):
        return given
    names = [one.name for one in fields(Pair)]
    if not isinstance(given, tuple | list) or not 2 <= len(given) <= len(names):
        raise DataError(f"is a {type(given).__name__}: give (image, target), and after these {', '.join(names[2:])}")
    return Pair(*given)


def _checked_target(target: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    truth = as_numpy(target)
    if not np.issubdtype(truth.dtype, np.floating):
        raise DataError(f"the truth holds {truth.dtype}: divide it by its largest possible value")
    truth = _floats(truth)
    if truth.shape != shape:
        raise ShapeError(f"the truth has shape {truth.shape}, but the restored image has {shape}")
    if not ((truth >= 0) & (truth <= 1)).all():  # also NaN
        raise DataError("the truth holds values outside [0, 1] or NaN: scale or repair it first")
    return truth.astype(np.float32)


def _answered(array: ArrayLike) -> FloatArray:
    """What a model returned, as `_floats`."""
    values = _floats(array)
    if not np.isfinite(values).all():
        raise DataError("the model returned NaN or infinite values")
    return values


def _floats(array: ArrayLike) -> FloatArray:
    """float64 array; (H, W) becomes (1, H, W)."""
    array = array.detach().float() if hasattr(array, "detach") else array  # NumPy knows no bfloat16
    values = as_numpy(array).astype(np.float64)
    return values[None] if values.ndim == 2 else values
