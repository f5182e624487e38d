"""What the results of each stage depend on: one dataclass per stage, given to its script and to its rule as a digest.

An edit of the configuration repeats the jobs whose digest changes. Fields that change how a result is computed or kept,
but not what it is, are marked, here with `execution_only` and in the configuration with `EXECUTION_ONLY`; they reach
the script but not the digest.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from conffusion.config.schema import (
    EXECUTION_ONLY,
    CalibrationSettings,
    DatasetSettings,
    FinetuningSettings,
    MethodTuning,
    PriorSettings,
    SamplingSettings,
    Section,
    SolverStudySettings,
    ValiditySettings,
)
from conffusion.methods.registry import Method

Precision = Literal["auto", "float32", "bfloat16"]


def execution_only() -> Any:
    """A field of a stage that does not change its results."""
    return field(metadata={EXECUTION_ONLY: True})


def decisive(value: Any) -> Any:
    """A value in plain types, without the fields that do not change results."""
    if isinstance(value, Section):
        kept = (name for name, of in type(value).model_fields.items() if EXECUTION_ONLY not in of.metadata)
        return {name: decisive(getattr(value, name)) for name in kept}
    if is_dataclass(value):
        kept = (of.name for of in fields(value) if EXECUTION_ONLY not in of.metadata)
        return {name: decisive(getattr(value, name)) for name in kept}
    if isinstance(value, Mapping):
        return {str(name): decisive(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [decisive(part) for part in value]
    return value


@dataclass(frozen=True)
class StageSettings:
    """What the results of one job follow from, beside its input files and the code."""

    @property
    def digest(self) -> str:
        """Changes exactly when a field changes that the results depend on."""
        text = json.dumps(decisive(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SplitStage(StageSettings):
    """Rule split_images.

    Attributes:
        dataset: Which images, and how they are divided.
        image_size: Side of the run's largest images, which decides how photographs are cut.
        seed: The run's seed.
        calibration: What the sizes of the splits are checked against; it moves no image.
    """

    dataset: DatasetSettings
    image_size: int
    seed: int
    calibration: CalibrationSettings = execution_only()


@dataclass(frozen=True)
class ImageStage(StageSettings):
    """Rule prepare_images.

    Attributes:
        dataset: Which images.
        image_size: Side of the run's largest images, which decides how photographs are cut.
        seed: The run's seed.
        task: Name of the task.
        degradation: Its settings, with the checksum of a file of the user's that they name.
        resample: How photographs are resized: "bicubic" or "bilinear".
        side: Side of the images to store.
    """

    dataset: DatasetSettings
    image_size: int
    seed: int
    task: str
    degradation: Mapping[str, Any]
    resample: str
    side: int


@dataclass(frozen=True)
class ImportStage(StageSettings):
    """Rule import_prior: name of a prior, and its network with the official file."""

    name: str
    prior: PriorSettings


@dataclass(frozen=True)
class PretrainingStage(StageSettings):
    """Rule train_prior.

    Attributes:
        name: Name of the prior.
        prior: What is trained, on what, for how long.
        degradation: Settings of the task whose degraded images a conditional prior is shown.
        image_size: Side of the images.
        seed: The run's seed.
        precision: Of the network.
        checkpoint_every_minutes: Between two full states.
    """

    name: str
    prior: PriorSettings
    degradation: Mapping[str, Any]
    image_size: int
    seed: int
    precision: Precision
    checkpoint_every_minutes: float = execution_only()


@dataclass(frozen=True)
class SamplingStage(StageSettings):
    """Rules sample_variants and study_solver.

    Attributes:
        prior: Network of the task's prior; its weights are an input.
        sampling: Settings of the sampler.
        seed: The run's seed.
        quantile: Level of the quantiles that have to settle, where `sampling.adaptive_stopping` asks for it; None: all
            variants are drawn.
        n_images: Only so many images of the split, the first ones; None takes all.
        precision: Of the network.
    """

    prior: PriorSettings
    sampling: SamplingSettings
    seed: int
    quantile: float | None = None
    n_images: int | None = None
    precision: Precision = "auto"


@dataclass(frozen=True)
class PriorSamplesStage(StageSettings):
    """Rule sample_priors: networks of the diffusion priors by name, and the sampler's settings."""

    priors: Mapping[str, PriorSettings]
    sampling: SamplingSettings
    seed: int
    precision: Precision


@dataclass(frozen=True)
class SolverStudyStage(StageSettings):
    """Rule measure_solvers: what is compared, the risk level, and the seed of the bootstrap."""

    solver_study: SolverStudySettings
    alpha: float
    seed: int


@dataclass(frozen=True)
class ExtractionStage(StageSettings):
    """Rule extract_bounds: the risk level, whose quantiles are taken."""

    alpha: float


@dataclass(frozen=True)
class FinetuningStage(StageSettings):
    """Rules finetune_method and try_settings.

    Attributes:
        method: The system to fit.
        replicate: 0, 1, ...: another seed for each.
        prior: The prior whose architecture, and weights if the method is pretrained, are used.
        tuned: Learning rate, prediction time and steps of this task and method.
        finetuning: Settings that all methods share; its `tuned` is empty.
        calibration: alpha, delta and the bound under which checkpoints compete.
        seed: The run's seed.
        precision: Of the network.
        official_quirks: Whether checkpoints of the protocol "paper" compete with the quirks of the official code.
    """

    method: Method
    replicate: int
    prior: PriorSettings
    tuned: MethodTuning
    finetuning: FinetuningSettings
    calibration: CalibrationSettings
    seed: int
    precision: Precision = "auto"
    official_quirks: bool = False


@dataclass(frozen=True)
class PredictionStage(StageSettings):
    """Rule predict_bounds: seed of the random inputs, precision, and whether quirks of the official code are kept."""

    seed: int
    precision: Precision = "auto"
    official_quirks: bool = False


@dataclass(frozen=True)
class TracingStage(StageSettings):
    """Rule trace_candidates: seed of the random inputs, and precision."""

    seed: int
    precision: Precision = "auto"


@dataclass(frozen=True)
class CalibrationStage(StageSettings):
    """Rule calibrate_method: the guarantee, the seed, and whether the official code's quirks are repeated."""

    calibration: CalibrationSettings
    seed: int
    official_quirks: bool = False


@dataclass(frozen=True)
class ValidityStage(StageSettings):
    """Rule assess_validity.

    Attributes:
        calibration: alpha, delta, bound and families.
        validity: Sizes and number of draws.
        seed: The run's seed.
        official_quirks: Whether the run repeats these quirks, so that the paper's curves are those of the candidate.
    """

    calibration: CalibrationSettings
    validity: ValiditySettings
    seed: int
    official_quirks: bool = False
