"""The settings of every rule's jobs, from the plan of a configuration. The rules and their scripts both ask here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from conffusion.config.schema import AdaptiveStoppingSettings, PriorSettings, SamplingSettings
from conffusion.core.choices import UNET_KINDS
from conffusion.pipeline.plan import Plan, method_of, replicate_of
from conffusion.pipeline.settings import (
    CalibrationStage,
    ExtractionStage,
    FinetuningStage,
    ImageStage,
    ImportStage,
    PredictionStage,
    PretrainingStage,
    PriorSamplesStage,
    SamplingStage,
    SolverStudyStage,
    SplitStage,
    StageSettings,
    TracingStage,
    ValidityStage,
)
from conffusion.pipeline.trials import trial_settings
from conffusion.tasks import pinned_settings

_FIXED = AdaptiveStoppingSettings(precision=None, round=2)  # every image has the same number of variants


class RuleSettings:
    """Settings of jobs by rule and wildcards; each is made once, so that plans of many jobs stay quick.

    Args:
        plan: The configuration's plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._made: dict[tuple[str, ...], StageSettings] = {}

    def __call__(self, rule: str, **wildcards: str) -> StageSettings:
        """Settings of a job; wildcards that they do not depend on are left alone.

        Raises:
            ConfigError: If the search over settings lacks values for a network, or a file of the user's is missing.
        """
        make, names = _RULES[rule]
        values = [wildcards[name] for name in names]
        if (rule, *values) not in self._made:
            self._made[rule, *values] = make(self._plan, *values)
        return self._made[rule, *values]


def _split(plan: Plan) -> SplitStage:
    config = plan.config
    return SplitStage(config.dataset, plan.largest_image_size, config.seed, config.calibration)


def _images(plan: Plan, task: str, folder: str) -> ImageStage:
    config, of_task = plan.config, plan.config.tasks[task]
    return ImageStage(
        config.dataset, plan.largest_image_size, config.seed, task, pinned_settings(task, of_task.degradation),
        of_task.resample, plan.side_in(task, folder),
    )  # fmt: skip


def _imported(plan: Plan, name: str) -> ImportStage:
    without_effect = {"training": None, "task": None, "image_size": None}
    return ImportStage(name, plan.config.priors[name].model_copy(update=without_effect))


def _pretraining(plan: Plan, name: str) -> PretrainingStage:
    config, prior = plan.config, plan.config.priors[name]
    of_task = config.tasks.get(prior.task or "")
    return PretrainingStage(
        name, prior, pinned_settings(str(prior.task), of_task.degradation) if of_task else {},
        prior.image_size or config.image_size, config.seed, config.precision,
        config.finetuning.checkpoint_every_minutes,
    )  # fmt: skip


def _variants(plan: Plan, task: str) -> SamplingStage:
    config, sampling = plan.config, plan.config.sampling
    adaptive = sampling.adaptive_stopping.precision is not None
    return SamplingStage(
        _network(plan, config.tasks[task].prior),
        sampling if adaptive else _with_fixed_number(sampling),
        config.seed,
        config.calibration.alpha / 2 if adaptive else None,
        precision=config.precision,
    )


def _studied_solver(plan: Plan, task: str, solver: str, n_steps: str) -> SamplingStage:
    config = plan.config
    sampling = _with_fixed_number(
        config.sampling, solver=solver, n_steps=int(n_steps), n_variants=plan.studied_variants(solver, int(n_steps))
    )
    network = _network(plan, config.tasks[task].prior)
    n_images = config.solver_study.n_images
    return SamplingStage(network, sampling, config.seed, n_images=n_images, precision=config.precision)


def _prior_samples(plan: Plan) -> PriorSamplesStage:
    config = plan.config
    priors = {name: _network(plan, name) for name in plan.used_priors if config.priors[name].schedule}
    return PriorSamplesStage(priors, _with_fixed_number(config.sampling), config.seed, config.precision)


def _solver_study(plan: Plan) -> SolverStudyStage:
    return SolverStudyStage(plan.config.solver_study, plan.config.calibration.alpha, plan.config.seed)


def _extraction(plan: Plan) -> ExtractionStage:
    return ExtractionStage(plan.config.calibration.alpha)


def _finetuning(plan: Plan, task: str, method_run: str, trial: str | None = None) -> FinetuningStage:
    config, method = plan.config, method_of(method_run)
    prior = _network(plan, plan.prior_name(task, method_run))
    if trial is None:
        tuned = config.finetuning.tuned[task][method.name]
    else:
        kind = prior.network if prior.network in UNET_KINDS else "encoder"
        tuned = trial_settings(config.tuning, kind, config.seed, int(trial))
    return FinetuningStage(
        method, replicate_of(method_run), prior, tuned, config.finetuning.model_copy(update={"tuned": {}}),
        config.calibration, config.seed, config.precision, config.official_quirks,
    )  # fmt: skip


def _prediction(plan: Plan) -> PredictionStage:
    return PredictionStage(plan.config.seed, plan.config.precision, plan.config.official_quirks)


def _tracing(plan: Plan) -> TracingStage:
    return TracingStage(plan.config.seed, plan.config.precision)


def _calibration(plan: Plan) -> CalibrationStage:
    return CalibrationStage(plan.config.calibration, plan.config.seed, plan.config.official_quirks)


def _validity(plan: Plan) -> ValidityStage:
    config = plan.config
    return ValidityStage(config.calibration, config.validity, config.seed, config.official_quirks)


def _network(plan: Plan, name: str) -> PriorSettings:
    """Settings of a prior's network without those of its weights, which are an input."""
    return plan.config.priors[name].model_copy(update={"training": None, "checkpoint": None, "source": None})


def _with_fixed_number(sampling: SamplingSettings, **changes: Any) -> SamplingSettings:
    """The settings without adaptive stopping."""
    return sampling.model_copy(update={"adaptive_stopping": _FIXED, **changes})


# What makes the settings of each rule's jobs, and the wildcards that it takes.
_RULES: Mapping[str, tuple[Callable[..., StageSettings], tuple[str, ...]]] = MappingProxyType(
    {
        "split_images": (_split, ()),
        "prepare_images": (_images, ("task", "folder")),
        "import_prior": (_imported, ("prior",)),
        "train_prior": (_pretraining, ("prior",)),
        "sample_variants": (_variants, ("task",)),
        "study_solver": (_studied_solver, ("task", "solver", "n_steps")),
        "sample_priors": (_prior_samples, ()),
        "measure_solvers": (_solver_study, ()),
        "extract_bounds": (_extraction, ()),
        "finetune_method": (_finetuning, ("task", "method_run")),
        "try_settings": (_finetuning, ("task", "method_run", "trial")),
        "predict_bounds": (_prediction, ()),
        "trace_candidates": (_tracing, ()),
        "calibrate_method": (_calibration, ()),
        "assess_validity": (_validity, ()),
    }
)
