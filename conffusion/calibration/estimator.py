"""Calibration with the interface of scikit-learn: parameters in the constructor, then fit, transform and score."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from conffusion.calibration.families import Family
from conffusion.calibration.fitting import attainable_risk, choose_family
from conffusion.calibration.pixels import Pixels
from conffusion.calibration.procedure import CalibrationOptions, calibrate_images
from conffusion.calibration.record import Calibration
from conffusion.calibration.units import make_units
from conffusion.core.arrays import ArrayLike, FloatArray, GroupLabels
from conffusion.core.choices import DEFAULT_ALPHA, DEFAULT_DELTA, DEFAULT_SCALING, BoundName
from conffusion.core.labelled_bounds import LabelledBounds
from conffusion.errors import CalibrationError, ConfigError

_PARAMETERS = ("alpha", "delta", "scaling", "ucb")
_UNCALIBRATED = Family("interval"), 1.0  # leaves bounds as they are


Selection = LabelledBounds  # former name, for the images of `fit(..., selection=...)`


class IntervalCalibrator:
    """Calibrates intervals of any model: `calibrate` and `Calibration.apply` as a scikit-learn-like estimator.

    Parameters are looked at by `fit`, and `sklearn.base.clone` copies them; scikit-learn itself is not needed.

    Args:
        alpha: Risk level, in (0, 1): share of true pixel values that may lie outside, on average over new images.
        delta: Error level, in (0, 1): how often the risk may exceed alpha all the same, over calibration sets.
        scaling: Set family: "multiplicative", "additive" or "interval"; a `Family`; or, with a `selection` to choose
            and fit on, any name or several names of families.
        ucb: Bound, as in `calibrate`; None = the recommended one.

    Attributes:
        calibration_: The `Calibration`; this and what follows exist after `fit`.
        lambda_hat_: Its scale.
        family_sizes_: Cross-validated mean size of each family, by name, where `fit` chose among several; else empty.

    Example:
        >>> import numpy as np
        >>> from conffusion import IntervalCalibrator
        >>> generator = np.random.default_rng(0)
        >>> target = generator.uniform(0.2, 0.8, (200, 3, 8, 8))
        >>> guess = target + 0.05 * generator.standard_normal(target.shape)
        >>> lower, upper = guess - 0.02, guess + 0.02
        >>> calibrator = IntervalCalibrator(alpha=0.1, delta=0.1).fit(lower, upper, target)
        >>> print(round(calibrator.lambda_hat_, 1))
        4.2
        >>> new_lower, new_upper = calibrator.transform(lower[:5], upper[:5])
        >>> bool(calibrator.risk(lower, upper, target) <= 0.1)
        True
    """

    def __init__(
        self,
        alpha: float = DEFAULT_ALPHA,
        delta: float = DEFAULT_DELTA,
        *,
        scaling: str | Family | Sequence[str] = DEFAULT_SCALING,
        ucb: BoundName | None = None,
    ) -> None:
        self.alpha, self.delta, self.scaling, self.ucb = alpha, delta, scaling, ucb

    def fit(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        target: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        groups: GroupLabels | None = None,
        selection: LabelledBounds | tuple[ArrayLike, ...] | None = None,
    ) -> Self:
        """Find the smallest scale that controls the risk.

        Args:
            lower: (N, C, H, W) lower bounds in [0, 1], in any order; NumPy array, torch tensor, or zarr array, which is
                streamed.
            upper: Upper bounds, same shape.
            target: Truth, same shape, in [0, 1].
            mask: Same shape, or (N, 1, H, W), 1 where a pixel counts; None counts all.
            groups: (N,) label of each image's group; images of a group may depend on each other.
            selection: Other images, on which the set family is chosen and fitted, as `LabelledBounds` or as a tuple of
                its first arrays; None: `scaling` needs no fit.
        Returns:
            Itself.
        Raises:
            ConfigError: If a parameter is invalid, or the scaling and the selection do not go together.
            ShapeError: If shapes do not match.
            DataError: As `calibrate`.
            CalibrationError: If no scale controls the risk; says how many images or groups would be needed.
        """
        images = LabelledBounds(lower, upper, target, mask, groups)
        family, self.family_sizes_ = self._choose(selection, images.n_units)
        options = CalibrationOptions(self.alpha, self.delta, family, self.ucb)
        self.calibration_: Calibration = calibrate_images(images, options)
        self.lambda_hat_ = self.calibration_.lambda_hat
        return self

    def transform(self, lower: ArrayLike, upper: ArrayLike) -> tuple[Any, Any]:
        """Calibrated bounds of new images: (lower, upper) in [0, 1], as by `Calibration.apply`.

        Raises:
            CalibrationError: If `fit` was not called.
            ShapeError: If the shapes differ.
        """
        return self._fitted().apply(lower, upper)

    def risk(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        target: ArrayLike,
        mask: ArrayLike | None = None,
        groups: GroupLabels | None = None,
    ) -> float:
        """Mean loss at the calibrated scale: the share of true pixel values outside, over images or groups.

        Args:
            lower: Bounds before calibration, as for `fit`, and so on; of images that calibrated nothing.
            upper: See there.
            target: See there.
            mask: See there.
            groups: See there.
        Raises:
            CalibrationError: If `fit` was not called.
            ShapeError: If shapes do not match.
            DataError: As `calibrate`.
        """
        calibration = self._fitted()
        images = LabelledBounds(lower, upper, target, mask, groups)
        return float(_unit_losses(images, calibration.family, calibration.lambda_hat).mean())

    def score(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        target: ArrayLike,
        mask: ArrayLike | None = None,
        groups: GroupLabels | None = None,
    ) -> float:
        """Coverage, 1 - `risk`: more is better, as scikit-learn has it; 1 - alpha is guaranteed on average."""
        return 1.0 - self.risk(lower, upper, target, mask, groups)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name; `deep` changes nothing and is there for scikit-learn."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **parameters: Any) -> Self:
        """Change arguments of the constructor.

        Raises:
            ConfigError: If there is no such argument.
        """
        for name, value in parameters.items():
            if name not in _PARAMETERS:
                raise ConfigError(f"{name} = {value!r}: the parameters are {', '.join(_PARAMETERS)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({given})"

    def _fitted(self) -> Calibration:
        if not hasattr(self, "calibration_"):
            raise CalibrationError(f"{self!r} is not fitted: call fit(lower, upper, target) first")
        return self.calibration_

    def _choose(
        self, selection: LabelledBounds | tuple[ArrayLike, ...] | None, n_units: int
    ) -> tuple[str | Family, dict[str, float]]:
        """The set family, and the sizes of those that it was chosen among."""
        if selection is None:
            if isinstance(self.scaling, str | Family):
                return self.scaling, {}
            raise ConfigError(f"scaling = {self.scaling!r}: to choose among families, give fit a selection")
        if isinstance(self.scaling, Family):
            raise ConfigError(
                f"scaling = {self.scaling.name!r}: is a family already; leave the selection out, or give names"
            )
        names = [self.scaling] if isinstance(self.scaling, str) else list(self.scaling)
        images = selection if isinstance(selection, LabelledBounds) else LabelledBounds(*selection)
        losses = _unit_losses(images, *_UNCALIBRATED)
        level = attainable_risk(losses, n=n_units, alpha=self.alpha, delta=self.delta, ucb=self.ucb)
        return choose_family(names, images, level=level)


def _unit_losses(images: LabelledBounds, family: Family, scale: float) -> FloatArray:
    """(n_units,) losses at a scale."""
    pixels = Pixels.of(images, family)
    units = make_units(None, pixels.totals(), images.groups)
    return units.losses(pixels.count_above(np.array([scale])))[:, 0]
