"""What a package holds: a network or sampler, the task, the calibrated scale, and the evidence behind it."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from conffusion import __version__
from conffusion.calibration import Calibration, Family
from conffusion.calibration.guarantee import Guarantee
from conffusion.inference.evidence import Evidence
from conffusion.methods.registry import METHODS, Method
from conffusion.tasks import Task, build_task, portable_settings


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SamplingRecord(_Strict):
    """How DM_SB draws its variants; names as in the configuration's `sampling`."""

    solver: str
    n_steps: int = Field(ge=1)
    n_variants: int = Field(ge=2)
    shared_start: bool
    dtype: Literal["uint8", "float16", "float32"]
    quantile: float = Field(gt=0, lt=0.5)


class CalibratedOn(_Strict):
    """Which images the scale was found on.

    Attributes:
        description: In words, for people.
        smallest: (height, width) of the smallest of them, in pixels of the restored image.
        largest: Of the largest.
        channels: Numbers of channels that they had: 1 for grey, 3 for colour.
        masks: "centre" where the hole was that of the training, in the middle of each image; "own" where people gave
            masks; "none" for tasks without.
        value_range: Sample values that stood for 0 and 1; None: by the type of the samples.
    """

    description: str
    smallest: tuple[int, int]
    largest: tuple[int, int]
    channels: tuple[int, ...] = (3,)
    masks: Literal["none", "centre", "own"] = "none"
    value_range: tuple[float, float] | None = None

    @property
    def sizes(self) -> str:
        """Smallest and largest size in words, width first."""
        smallest, largest = (f"{width}x{height}" for height, width in (self.smallest, self.largest))
        return smallest if smallest == largest else f"{smallest} to {largest}"


class PackageRecord(_Strict):
    """The content of package.json.

    Attributes:
        format: Version of the format.
        version: Of conffusion that wrote it.
        name: What people call the model.
        task: Name of the task.
        degradation: Its settings, without any that name code.
        method: Name of the method.
        protocol: "paper" or "guaranteed".
        sorts_bounds: Whether crossing bounds are sorted before calibration.
        seed: Of random inputs.
        image_size: Side of the images that the network knows, in pixels.
        overlap: Pixels that neighbouring tiles share, at least.
        bfloat16: Whether the network ran in bfloat16 when it was calibrated.
        sampling: How variants are drawn, for a sampled method.
        calibration: `Calibration.to_dict`.
        family: `Family.to_dict`: its set family, with its fitted shape.
        calibrated_on: The images behind `calibration`.
        provenance: Free facts: run, training step, splits, licence.
    """

    format: Literal[2] = 2
    version: str
    name: str
    task: str
    degradation: dict[str, Any]
    method: str
    protocol: str
    sorts_bounds: bool
    seed: int
    image_size: int = Field(ge=1, le=4096)
    overlap: int = Field(ge=0)
    bfloat16: bool
    sampling: SamplingRecord | None
    calibration: dict[str, Any]
    family: dict[str, Any]
    calibrated_on: CalibratedOn
    provenance: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Package:
    """A calibrated model.

    Attributes:
        record: All facts.
        weights: A safetensors file of this project: a fitted predictor, or the prior that is sampled.
        evidence: About the calibration images.
    """

    record: PackageRecord
    weights: bytes
    evidence: Evidence

    @cached_property
    def task(self) -> Task:
        """The restoration task, with its settings; code that a package names is never looked at."""
        return build_task(self.record.task, **portable_settings(self.record.task, self.record.degradation))

    @property
    def method(self) -> Method:
        """The method."""
        return METHODS[self.record.method]

    @cached_property
    def calibration(self) -> Calibration:
        """The scale, with its set family.

        Raises:
            StoreError: If the record holds none.
        """
        return Calibration.from_dict(self.record.calibration, Family.from_dict(self.record.family))

    @property
    def guarantee(self) -> Guarantee:
        """What is guaranteed of new images, if anything."""
        return self.calibration.guarantee

    @cached_property
    def weights_sha256(self) -> str:
        """Checksum of the weights file."""
        return hashlib.sha256(self.weights).hexdigest()

    @property
    def facts(self) -> dict[str, Any]:
        """What every result of the model says about it and its guarantee, in plain values."""
        record, calibration = self.record, self.calibration
        return {
            "version": __version__,
            "task": record.task,
            "method": record.method,
            "protocol": record.protocol,
            "guarantee": str(self.guarantee),
            "alpha": calibration.alpha,
            "delta": calibration.delta,
            "lambda_hat": calibration.lambda_hat,
            "unit": calibration.unit,
            "n": calibration.n,
            "n_images": calibration.n_images,
            "model_sha256": self.weights_sha256,
        }

    def recalibrated(
        self, calibration: Calibration, on: CalibratedOn, evidence: Evidence, *, bfloat16: bool
    ) -> "Package":
        """The same model with a scale found on other images, for the same family, and with a guarantee.

        Args:
            calibration: The scale; by a bound that holds for any number of units.
            on: The images.
            evidence: What they said.
            bfloat16: Whether the network ran in bfloat16.
        """
        changes = {
            "calibration": calibration.to_dict(),
            "calibrated_on": on,
            "protocol": "guaranteed",
            "bfloat16": bfloat16,
        }
        return replace(self, record=self.record.model_copy(update=changes), evidence=evidence)
