"""Every configuration key with its type and range; the comments for users stand in `config.yaml`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from conffusion.core.choices import (
    PLAIN_FAMILIES,
    FamilyName,
    FiniteSampleBound,
    NetworkName,
    ScheduleName,
    SolverName,
    StoredType,
)

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Probability = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
BucketUrl = Annotated[str, Field(pattern=r"^s3://[^/\s]+(/\S*)?$")]
Count = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
# Marks fields that change how results are computed and kept but not what they are: no edit of them repeats a job.
EXECUTION_ONLY = "execution only"
RULE_FILLED = "rule"  # `checkpoint` of a prior: weights by a rule, to try a network without its file
SplitSize = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Splits(Section):
    """Images, or share of all groups, per split."""

    finetune: SplitSize
    selection: SplitSize
    calibration: SplitSize
    test: SplitSize


class FacesSettings(Section):
    """The procedural portraits."""

    population: Literal["wide", "shifted"]


class FolderSettings(Section):
    """A folder of the user's own images."""

    path: str | None
    pattern: str
    fit: Literal["crop", "resize", "tile"]
    tile_size: Count | None
    max_tiles_per_image: Count | None
    group_pattern: str | None
    group_csv: str | None
    value_range: tuple[float, float] | None

    @field_validator("value_range")
    @classmethod
    def _low_below_high(cls, value_range: tuple[float, float] | None) -> tuple[float, float] | None:
        if value_range is not None and not value_range[0] < value_range[1]:
            raise ValueError("must be two numbers, the first below the second")
        return value_range


class DatasetSettings(Section):
    """Which images, and how they are divided."""

    name: Literal["faces", "folder"]
    splits: Splits
    faces: FacesSettings
    folder: FolderSettings

    @model_validator(mode="after")
    def _folder_has_path(self) -> "DatasetSettings":
        if self.name == "folder" and not self.folder.path:
            raise ValueError(
                "dataset.folder.path must name the folder or archive of images when dataset.name is 'folder'"
            )
        return self


class TaskSettings(Section):
    """One restoration task."""

    degradation: dict[str, Any]
    resample: Literal["bicubic", "bilinear"]
    prior: Name


class ScheduleSettings(Section):
    """Arguments of `conffusion.sampling.noise_schedule`."""

    name: ScheduleName
    n_timesteps: Count
    linear_start: PositiveFloat
    linear_end: PositiveFloat
    cosine_s: PositiveFloat
    respacing: Count | None


class PriorTraining(Section):
    """How `snakemake priors` trains a network."""

    images: Literal["faces", "photos", "dataset"]
    n_images: Count
    n_steps: Count
    batch_size: Count
    learning_rate: PositiveFloat
    ema: Share


class PriorSettings(Section):
    """One pretrained network: what it is, and where its weights come from."""

    network: NetworkName
    options: dict[str, Any]
    schedule: ScheduleSettings | None
    task: Name | None
    image_size: Annotated[int, Field(ge=8)] | None = None
    checkpoint: str | None = None
    source: str | None = None
    training: PriorTraining | None = None


class AdaptiveStoppingSettings(Section):
    """When to stop drawing variants of an image."""

    precision: PositiveFloat | None
    round: Annotated[int, Field(ge=2)]


class SamplingSettings(Section):
    """How variants are drawn."""

    solver: SolverName
    n_steps: Count
    n_variants: Annotated[int, Field(ge=2)]
    adaptive_stopping: AdaptiveStoppingSettings
    shared_start: bool
    batch_size: Annotated[Count | None, EXECUTION_ONLY]
    compile: Annotated[bool, EXECUTION_ONLY]
    images_per_shard: Annotated[Count, EXECUTION_ONLY]
    shards_per_share: Annotated[Count, EXECUTION_ONLY]
    dtype: StoredType
    variants_url: Annotated[BucketUrl | None, EXECUTION_ONLY]


class SolverReference(Section):
    """Setting that others are compared with."""

    solver: SolverName
    n_steps: Count
    n_variants: Annotated[int, Field(ge=2)]


class SolverStudySettings(Section):
    """What `snakemake solver_study` compares."""

    n_images: Count
    solvers: dict[SolverName, Annotated[list[Count], Field(min_length=1)]]
    n_variants: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]
    reference: SolverReference
    tolerance: PositiveFloat
    precisions: list[PositiveFloat]
    round: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _reference_is_measured(self) -> "SolverStudySettings":
        reference = self.reference
        if reference.n_steps not in self.solvers.get(reference.solver, []):
            raise ValueError(f"reference: {reference.solver} with {reference.n_steps} steps is not among the solvers")
        if reference.n_variants not in self.n_variants:
            raise ValueError(f"reference.n_variants = {reference.n_variants} is not among n_variants")
        return self


class MethodTuning(Section):
    """Settings that the search chose for one method on one task."""

    learning_rate: PositiveFloat
    prediction_time: Share
    n_steps: Count


class SharpeningSettings(Section):
    """The last phase of fine-tuning, which minimises the width at the risk level."""

    n_steps: Annotated[int, Field(ge=0)]
    learning_rate_factor: PositiveFloat


class FinetuningSettings(Section):
    """Settings that all fine-tuning runs share, and tuned ones per task and method."""

    batch_size: Count
    micro_batch_size: Count | None
    learning_rate_schedule: Literal["cosine", "constant"]
    ema: Share
    shuffle: bool
    horizontal_flip: bool
    validate_every: Count
    validate_first_step: bool
    patience: Count | None
    processes: Annotated[Count, EXECUTION_ONLY]
    checkpoint_every_minutes: Annotated[float, Field(ge=0), EXECUTION_ONLY]
    keep_candidates: Annotated[bool, EXECUTION_ONLY]
    maps_timestep: bool
    sharpening: SharpeningSettings
    tuned: dict[Name, dict[Name, MethodTuning]]


class TuningSettings(Section):
    """The search over fine-tuning settings."""

    learning_rate: Annotated[list[PositiveFloat], Field(min_length=1)]
    prediction_time: dict[Name, Annotated[list[Share], Field(min_length=1)]]
    n_steps: Annotated[list[Count], Field(min_length=1)]
    n_trials: Count


class CalibrationSettings(Section):
    """Levels of the guarantee, and how lambda_hat is found."""

    alpha: Probability
    delta: Probability
    ucb: FiniteSampleBound
    families: Annotated[list[FamilyName], Field(min_length=1)]

    @property
    def plain_family(self) -> str:
        """The first family that needs no fit."""
        return next((name for name in self.families if name in PLAIN_FAMILIES), PLAIN_FAMILIES[0])


class ValiditySettings(Section):
    """The assessment of the guarantee over redrawn calibration sets."""

    calibration_sizes: list[Count] | None
    n_draws: Annotated[int, Field(ge=1)]


class ReportSettings(Section):
    """Figures and confidence intervals of the report."""

    n_examples: Count
    example_pattern: str
    n_bootstrap: Annotated[int, Field(ge=100)]
    publish_url: BucketUrl | None


class Config(Section):
    """The whole configuration of one run."""

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]
    seed: Annotated[int, Field(ge=0)]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    threads: Count
    replicates: Count
    ignore_code_changes: bool
    official_quirks: bool
    image_size: Annotated[int, Field(ge=8)]
    dataset: DatasetSettings
    tasks: Annotated[dict[Name, TaskSettings], Field(min_length=1)]
    methods: Annotated[list[Name], Field(min_length=1)]
    priors_dir: str | None
    networks: dict[Name, Name]
    priors: dict[Name, PriorSettings]
    sampling: SamplingSettings
    solver_study: SolverStudySettings
    finetuning: FinetuningSettings
    tuning: TuningSettings
    calibration: CalibrationSettings
    validity: ValiditySettings
    report: ReportSettings

    @model_validator(mode="after")
    def _names_resolve(self) -> "Config":
        used = {f"tasks.{task}.prior": settings.prior for task, settings in self.tasks.items()}
        used |= {f"networks.{role}": prior for role, prior in self.networks.items()}
        for key, prior in used.items():
            if prior not in self.priors:
                raise ValueError(f"{key} = {prior!r} is not one of the priors: {', '.join(self.priors)}")
        return self
