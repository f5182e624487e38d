"""What a package holds: a network or sampler, the task, the calibrated scale, and the evidence behind it."""

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from conffusion.calibration import Calibration, Family
from conffusion.core.choices import BoundName, UnitName
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


class CalibrationValues(_Strict):
    """The fields of `conffusion.calibration.Calibration`, without the shape, which the family has."""

    lambda_hat: float
    risk: float = Field(ge=0, le=1)
    risk_ucb: float
    n: int = Field(ge=1)
    alpha: float = Field(gt=0, lt=1)
    delta: float = Field(gt=0, lt=1)
    scaling: str
    ucb: BoundName
    unit: UnitName
    n_images: int = Field(ge=1)


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
        calibration: The scale and its guarantee.
        family: `conffusion.calibration.Family.to_dict`.
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
    calibration: CalibrationValues
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

    @property
    def task(self) -> Task:
        """The restoration task, with its settings; code that a package names is never looked at."""
        return build_task(self.record.task, **portable_settings(self.record.task, self.record.degradation))

    @property
    def method(self) -> Method:
        """The method."""
        return METHODS[self.record.method]

    @property
    def family(self) -> Family:
        """The set family."""
        return Family.from_dict(self.record.family)

    @property
    def calibration(self) -> Calibration:
        """The scale and its guarantee."""
        return Calibration(**self.record.calibration.model_dump(), shape=self.family.shape)

    @property
    def guarantee(self) -> str:
        """What is guaranteed, as one sentence; says so where nothing is."""
        calibration = self.calibration
        if self.record.protocol != "guaranteed":
            return (
                f"No guarantee: the protocol `{self.record.protocol}` counts dependent values as independent samples. "
                f"It aims at {calibration.alpha:.0%} of pixel values outside their intervals."
            )
        whole = "images" if calibration.unit == "image" else "groups of images"
        return (
            f"With probability {1 - calibration.delta:.0%} over the draw of the {calibration.n} calibration {whole}, "
            f"on average at most {calibration.alpha:.0%} of the true pixel values of new images like them lie outside "
            "their intervals."
        )

    @cached_property
    def weights_sha256(self) -> str:
        """Checksum of the weights file."""
        return hashlib.sha256(self.weights).hexdigest()

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
            "calibration": CalibrationValues(**calibration_record(calibration)),
            "calibrated_on": on,
            "protocol": "guaranteed",
            "bfloat16": bfloat16,
        }
        return replace(self, record=self.record.model_copy(update=changes), evidence=evidence)


def calibration_record(calibration: Calibration) -> dict[str, Any]:
    """A calibration as plain values; its shape is kept with the family."""
    return {name: value for name, value in asdict(replace(calibration, shape=None)).items() if name != "shape"}
