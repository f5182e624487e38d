"""`conffusion.CalibratedModel`: calibrated intervals around any restoration model."""

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from conffusion import __version__
from conffusion.calibration import Calibration, CalibrationOptions
from conffusion.calibration.procedure import calibrate_images
from conffusion.calibration.risk_bounds import finite_sample_bound
from conffusion.core.arrays import ArrayLike
from conffusion.core.choices import (
    DEFAULT_ALPHA,
    DEFAULT_DELTA,
    DEFAULT_SCALING,
    BoundName,
)
from conffusion.errors import ConfigError, PackageError, StoreError
from conffusion.evaluation.drift import Drift
from conffusion.evaluation.verdicts import MeasuredRisk, calibration_verdict, evaluation_verdict, measure_risk
from conffusion.inference.bounds_on_disk import calibrated_losses, temporary_bounds
from conffusion.inference.evidence import Evidence
from conffusion.inference.interval import Interval
from conffusion.inference.restoration_model import Pair, Quantiles, RestorationModel, restore_image, restore_pairs
from conffusion.store import atomic_path

__all__ = ["CalibratedModel", "Evaluation", "Pair", "RestorationModel"]

_RECORD = "conffusion"  # key of the record in the file's metadata


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a test set says about a guarantee.

    Attributes:
        measured: Risk with its limits.
        interval_size_mean: Mean over images of the mean size of their intervals, in units of the [0, 1] range.
        drift: Whether the images look like those that calibrated the model.
        verdict: In words.
    """

    measured: MeasuredRisk
    interval_size_mean: float
    drift: Drift
    verdict: str


class _Record(BaseModel):
    """What a file holds beside the evidence."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    format: Literal[1, 2] = 2  # 1: of conffusion 0.1.0, which called `n_bound` `n`
    version: str
    quantiles: Quantiles
    calibration: dict[str, Any]


class CalibratedModel:
    """A restoration model with calibrated intervals: `calibrate` one, or `load` what was saved of it.

    Args:
        model: The model; see `RestorationModel`.
        calibration: Its scale and guarantee.
        evidence: About the calibration images.
        quantiles: (low, high) quantiles of samples that make the bounds; bounds that a model returns need none.

    Example:
        >>> import numpy as np
        >>> from conffusion import CalibratedModel
        >>> generator = np.random.default_rng(0)
        >>> def denoise(image):  # any callable that returns samples, or (lower, upper)
        ...     return image + 0.03 * generator.standard_normal((10, *image.shape))
        >>> def pair():
        ...     target = generator.uniform(0.2, 0.8, (3, 12, 16))
        ...     return target + 0.05 * generator.standard_normal(target.shape), target
        >>> calibrated = CalibratedModel.calibrate(denoise, (pair() for _ in range(60)), alpha=0.1, delta=0.1)
        >>> image, target = pair()
        >>> interval = calibrated(image)
        >>> bool(interval.contains(target).mean() > 0.85)
        True
    """

    def __init__(
        self, model: RestorationModel, calibration: Calibration, evidence: Evidence, quantiles: Quantiles
    ) -> None:
        self.model, self.calibration, self.evidence, self.quantiles = model, calibration, evidence, quantiles

    @classmethod
    def calibrate(
        cls,
        model: RestorationModel,
        pairs: Iterable[Pair | tuple[Any, ...]],
        alpha: float = DEFAULT_ALPHA,
        delta: float = DEFAULT_DELTA,
        *,
        scaling: str = DEFAULT_SCALING,
        ucb: BoundName | None = None,
        quantiles: Quantiles | None = None,
        folder: str | Path | None = None,
    ) -> Self:
        """Find the smallest scale that controls the risk, from pairs that the model has not learned from.

        Pairs are asked for one at a time, may be of any sizes, and are kept on disk until the scale is found; memory
        does not grow with their number. Their order plays no role, since the scale is found in another, random one.

        Args:
            model: The model; see `RestorationModel`.
            pairs: `Pair` or (image, target), and maybe mask, group and options; a list, a data set or a generator.
            alpha: Risk level, in (0, 1).
            delta: Error level, in (0, 1).
            scaling: "interval", "additive" or "multiplicative". A model that returns one image and no bounds can return
                it twice, as (image, image), with "additive": all intervals are then equally wide.
            ucb: Bound, as in `conffusion.calibration.calibrate`; None: the recommended one.
            quantiles: (low, high) quantiles of samples that make the bounds; None: (alpha / 2, 1 - alpha / 2).
            folder: Where the values of the pairs are kept meanwhile, at most 50 bytes each; None: the system's
                temporary folder.
        Raises:
            ConfigError: If a setting is invalid; before the model is asked anything.
            ShapeError: If an answer does not fit its truth.
            DataError: If a pair is no pair of image and truth in [0, 1], or the model returns NaN.
            CalibrationError: If no scale controls the risk; says how many images or groups would be needed.
        """
        levels = (alpha / 2, 1 - alpha / 2) if quantiles is None else (quantiles[0], quantiles[1])
        options = CalibrationOptions(alpha, delta, scaling, ucb)
        finite_sample_bound(options.bound_name)
        if not 0 <= levels[0] < levels[1] <= 1:
            raise ConfigError(f"quantiles = {levels}: must be in order and lie in [0, 1]")
        place = Path(tempfile.gettempdir() if folder is None else folder)
        features, groups = [], []
        with temporary_bounds(place) as on_disk:
            for number, (pair, interval) in enumerate(restore_pairs(model, pairs, levels)):
                on_disk.append(f"pair {number}", interval, pair.target)
                features.append(interval.features)
                groups.append(pair.group)
            bounds = on_disk.labelled(_labels(groups))
            calibration = calibrate_images(bounds, options)
            evidence = Evidence.of(calibrated_losses(bounds, calibration), features, bounds.groups)
        return cls(model, calibration, evidence, levels)

    def __call__(self, image: Any, mask: ArrayLike | None = None, **options: Any) -> Interval:
        """The calibrated interval of one image.

        Args:
            image: What the model takes; handed on as it is.
            mask: (H, W), 1 where pixels are restored; handed on too. None: all are.
            options: More for the model.
        Raises:
            ShapeError: If the answer or the mask has another shape.
            DataError: If the answer holds NaN, or the mask other values than 0 and 1.
        """
        interval = restore_image(self.model, image, mask, options, self.quantiles)
        return interval.calibrated(self.calibration, self.evidence)

    def evaluate(self, pairs: Iterable[Pair | tuple[Any, ...]]) -> Evaluation:
        """Is the risk controlled on pairs that neither trained nor calibrated the model?

        Args:
            pairs: As for `calibrate`; memory does not grow with their number.
        Raises:
            ShapeError: If an answer does not fit its truth.
            DataError: If a pair is no pair of image and truth in [0, 1], or the model returns NaN.
        """
        losses, sizes, features, groups = [], [], [], []
        for pair, uncalibrated in restore_pairs(self.model, pairs, self.quantiles):
            interval = uncalibrated.calibrated(self.calibration, self.evidence)
            losses.append(interval.risk(pair.target))
            sizes.append(interval.size_mean)
            features.append(uncalibrated.features)
            groups.append(pair.group)
        labels = _labels(groups)
        measured = measure_risk(np.array(losses), labels)
        drift = self.evidence.drift(np.array(features), labels)
        verdict = evaluation_verdict(measured, self.calibration.alpha, drift.warning())
        return Evaluation(measured, float(np.mean(sizes)), drift, verdict)

    @property
    def verdict(self) -> str:
        """What the calibration guarantees, in words."""
        return calibration_verdict(self.calibration)

    def save(self, path: str | Path) -> None:
        """Write scale, guarantee and evidence to one safetensors file; the model itself is not in it.

        Raises:
            StoreError: If the disk refuses.
        """
        record = _Record(version=__version__, quantiles=self.quantiles, calibration=self.calibration.to_dict())
        content = save(self.evidence.arrays(), {_RECORD: record.model_dump_json()})
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def load(cls, path: str | Path, model: RestorationModel) -> Self:
        """What `save` wrote, around the same model: with another one nothing is guaranteed.

        Raises:
            PackageError: If the file is missing, damaged, of a newer format, or something else.
        """
        try:
            with safe_open(path, framework="np") as file:
                values = json.loads((file.metadata() or {})[_RECORD])
            record = _Record(**values)
            evidence = Evidence.from_arrays(load_file(path))
            return cls(model, Calibration.from_dict(record.calibration, source=path), evidence, record.quantiles)
        except (OSError, SafetensorError, StoreError, ValidationError, ValueError, KeyError, TypeError) as error:
            raise PackageError(
                f"{path}: cannot be read as a calibrated model ({error}); make it with CalibratedModel.save"
            ) from error


def _labels(groups: Sequence[Any]) -> NDArray[np.str_] | None:
    """Labels of the groups of pairs; None where these have none."""
    return None if groups[0] is None else np.array([str(group) for group in groups])
