"""Settings of every rule's jobs hold what their results depend on, no more, and reach the scripts whole."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from conffusion.config import load_config, parse_config
from conffusion.config.schema import EXECUTION_ONLY, Section
from conffusion.pipeline.plan import Plan
from conffusion.pipeline.rule_settings import _RULES, RuleSettings
from conffusion.pipeline.settings import FinetuningStage, ImageStage, SamplingStage, StageSettings
from tests.pipeline.configs import ROOT, TASK, plan, without

WILDCARDS = {
    "task": TASK, "method_run": "n_conffusion", "folder": "images", "prior": "sr3_faces", "trial": "3",
    "solver": "ancestral", "n_steps": "20",
}  # fmt: skip


# ---- the digest


def variations(value: Any, decides: bool = True) -> Iterator[tuple[str, bool, Any]]:
    """Name of every field below a value, whether results depend on it, and the value with that field changed."""
    if isinstance(value, Section):
        for name, of in type(value).model_fields.items():
            for path, counts, other in variations(getattr(value, name), decides and EXECUTION_ONLY not in of.metadata):
                yield f".{name}{path}", counts, value.model_copy(update={name: other})
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            inner = variations(getattr(value, part.name), decides and EXECUTION_ONLY not in part.metadata)
            for path, counts, other in inner:
                yield f".{part.name}{path}", counts, replace(value, **{part.name: other})
    elif isinstance(value, dict) and value:
        for name, part in value.items():
            for path, counts, other in variations(part, decides):
                yield f".{name}{path}", counts, {**value, name: other}
    else:
        yield "", decides, "another" if value != "another" else "yet another"


@pytest.mark.parametrize("rule", _RULES)
def test_the_digest_changes_exactly_with_what_decides_results(rule: str) -> None:
    settings = RuleSettings(plan())(rule, **WILDCARDS)
    found = list(variations(settings))
    assert len({path for path, _, _ in found}) == len(found) > 0
    for path, decides, other in found:
        assert (other.digest != settings.digest) == decides, path


def test_what_only_execution_sees_is_marked() -> None:
    marked = {
        path
        for rule in _RULES
        for path, decides, _ in variations(RuleSettings(plan())(rule, **WILDCARDS))
        if not decides
    }
    assert {path.rpartition(".")[2] for path in marked if not path.startswith(".calibration")} == {
        "batch_size", "compile", "images_per_shard", "shards_per_share", "variants_url", "processes",
        "checkpoint_every_minutes", "keep_candidates",
    }  # fmt: skip
    assert ".finetuning.batch_size" not in marked  # of a step, which decides what is learned


def test_every_rule_with_settings_is_known_and_given_them_by_name() -> None:
    rules = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    named = dict(re.findall(r'^rule (\w+):(?:(?!^rule ).)*?settings=settings\("(\w+)"\)', rules, re.M | re.S))
    assert named == {rule: rule for rule in _RULES}


def test_settings_of_many_jobs_are_made_once() -> None:
    make = RuleSettings(plan())
    shards = [make("sample_variants", task=TASK, split="test", k=f"{k:05d}", n="09999") for k in range(10_000)]
    assert all(settings is shards[0] for settings in shards)


def test_scripts_get_what_does_not_decide_results_too() -> None:
    make = RuleSettings(plan(sampling={"batch_size": 7}, finetuning={"processes": 2}))
    variants, fit = (make(rule, **WILDCARDS) for rule in ("sample_variants", "finetune_method"))
    assert isinstance(variants, SamplingStage) and variants.sampling.batch_size == 7
    assert isinstance(fit, FinetuningStage) and fit.finetuning.processes == 2


def test_a_studied_solver_is_drawn_with_its_own_steps_and_the_rest_of_the_configuration() -> None:
    some = plan(sampling={"shared_start": True, "adaptive_stopping": {"precision": 0.01}})
    settings = RuleSettings(some)("study_solver", **WILDCARDS)
    assert isinstance(settings, SamplingStage)
    sampling = settings.sampling
    assert (sampling.solver, sampling.n_steps, sampling.shared_start) == ("ancestral", 20, True)
    assert sampling.n_variants == some.studied_variants("ancestral", 20)
    assert settings.quantile is sampling.adaptive_stopping.precision is None
    assert settings.n_images == some.config.solver_study.n_images


def test_trials_differ_in_what_they_try_alone() -> None:
    make = RuleSettings(plan())
    first, second = (make("try_settings", task=TASK, method_run="resnext", trial=trial) for trial in "01")
    assert isinstance(first, FinetuningStage) and isinstance(second, FinetuningStage)
    assert first.tuned != second.tuned and replace(first, tuned=second.tuned) == second


# ---- what a rule depends on

STAGES = (
    "split_images", "sample_variants", "extract_bounds", "finetune_method", "predict_bounds", "trace_candidates",
    "calibrate_method", "assess_validity",
)  # fmt: skip


def all_settings(some: Plan) -> dict[tuple[str, str, str], StageSettings]:
    """Settings of every job of a plan, by rule, task and method run."""
    make = RuleSettings(some)
    jobs = {("split_images", "", ""): make("split_images")}
    for stage in STAGES[1:]:
        method_runs = (
            some.trained_method_runs
            if stage in ("finetune_method", "predict_bounds", "trace_candidates")
            else some.method_runs
        )
        for task in some.tasks:
            for method_run in method_runs:
                jobs[stage, task, method_run] = make(stage, task=task, method_run=method_run)
    for task in some.tasks:
        jobs["prepare_images", task, ""] = make("prepare_images", task=task, folder="images")
    return jobs


def changed_jobs(**overlay: Any) -> set[tuple[str, str, str]]:
    before, after = all_settings(plan()), all_settings(plan(**overlay))
    assert set(before) <= set(after)
    return {job for job, settings in before.items() if settings.digest != after[job].digest}


def test_tuned_settings_of_a_method_concern_that_method_alone() -> None:
    overlay = {"finetuning": {"tuned": {TASK: {"n_conffusion": {"n_steps": 7}}}}}
    assert changed_jobs(**overlay) == {("finetune_method", TASK, "n_conffusion")}


def test_another_method_changes_no_other() -> None:
    fewer = Plan(parse_config(without("methods", "g_conffusion")))
    before, after = all_settings(fewer), all_settings(plan())
    assert {method_run for _, _, method_run in set(after) - set(before)} == {"g_conffusion"}
    assert all(after[job].digest == settings.digest for job, settings in before.items())


def test_another_task_or_replicate_changes_no_other() -> None:
    fewer = Plan(parse_config(without("tasks", "inpainting")))
    before, after = all_settings(fewer), all_settings(plan())
    assert all(after[job].digest == settings.digest for job, settings in before.items())
    assert changed_jobs(replicates=3) == set()


def stages_of(jobs: set[tuple[str, str, str]]) -> set[str]:
    return {stage for stage, _, _ in jobs}


@pytest.mark.parametrize(
    ("overlay", "stages"),
    [
        ({"sampling": {"n_variants": 7}}, {"sample_variants"}),
        ({"finetuning": {"batch_size": 7}}, {"finetune_method"}),
        ({"finetuning": {"sharpening": {"n_steps": 7}}}, {"finetune_method"}),
        ({"validity": {"n_draws": 7}}, {"assess_validity"}),
        ({"precision": "bfloat16"}, {"sample_variants", "finetune_method", "predict_bounds", "trace_candidates"}),
        ({"image_size": 64}, {"split_images", "prepare_images"}),
        ({"dataset": {"splits": {"test": 7}}}, {"split_images", "prepare_images"}),
        ({"tasks": {TASK: {"degradation": {"factor": 8}}}}, {"prepare_images"}),
        ({"calibration": {"alpha": 0.3}}, {"extract_bounds", "finetune_method", "calibrate_method", "assess_validity"}),
        *[({key: value}, set[str]()) for key, value in {
            "run": "other", "threads": 2, "device": "cpu", "report": {"n_bootstrap": 999},
            "tuning": {"n_trials": 3}, "ignore_code_changes": True, "priors_dir": "elsewhere",
        }.items()],
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_setting_concerns_its_own_stages(overlay: dict[str, Any], stages: set[str]) -> None:
    assert stages_of(changed_jobs(**overlay)) == stages


def test_degradation_concerns_its_own_task() -> None:
    jobs = changed_jobs(tasks={"inpainting": {"degradation": {"hole": 0.25}}})
    assert {task for _, task, _ in jobs} == {"inpainting"}


def test_prior_concerns_the_methods_that_start_from_it() -> None:
    jobs = changed_jobs(priors={"resnext_photos": {"options": {"n_classes": 5}}})
    assert {(stage, method_run) for stage, _, method_run in jobs} == {("finetune_method", "resnext")}


@pytest.mark.parametrize("overlay", [{"delta": 0.3}, {"ucb": "hoeffding"}, {"families": ["additive"]}], ids=str)
def test_only_alpha_concerns_the_quantiles_of_variants(overlay: dict[str, Any]) -> None:
    assert "extract_bounds" not in stages_of(changed_jobs(calibration=overlay))


@pytest.mark.parametrize(
    "overlay",
    [
        {"batch_size": 7},
        {"batch_size": None},
        {"compile": True},
        {"shards_per_share": 7},
        {"images_per_shard": 7},
        {"variants_url": "s3://bucket"},
        {"adaptive_stopping": {"round": 7}},
    ],
    ids=str,
)
def test_batches_do_not_concern_the_variants(overlay: dict[str, Any]) -> None:
    assert changed_jobs(sampling=overlay) == set()


def test_seed_concerns_everything_random() -> None:
    assert stages_of(changed_jobs(seed=5)) == {*STAGES, "prepare_images"} - {"extract_bounds"}


def test_images_of_a_folder_depend_on_its_size_and_on_nothing_of_the_other_task() -> None:
    make = RuleSettings(Plan(load_config(ROOT / "config.yaml", ROOT / "config" / "paper.yaml")))
    own, other = (make("prepare_images", task="inpainting", folder=folder) for folder in ("images", "images-128"))
    assert isinstance(own, ImageStage) and isinstance(other, ImageStage)
    assert (own.side, other.side) == (256, 128)
    assert replace(own, side=128) == other
    assert own.resample == "bilinear" and own.degradation == {"hole": 0.5}


@pytest.mark.parametrize(
    ("change", "reruns"),
    [
        ({"processes": 2}, False),
        ({"checkpoint_every_minutes": 1}, False),
        ({"keep_candidates": False}, False),
        ({"patience": 3}, True),
        ({"micro_batch_size": 8}, True),
    ],
)
def test_fine_tuning_reruns_for_what_changes_its_results(change: dict[str, Any], reruns: bool) -> None:
    before, after = (
        RuleSettings(some)("finetune_method", task=TASK, method_run="n_conffusion").digest
        for some in (plan(), plan(finetuning=change))
    )
    assert (before != after) == reruns
