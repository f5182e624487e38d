"""The jobs of `snakemake all` as data: their names, the file that each writes last, and how much there is to do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from conffusion.core.layout import RunLayout
from conffusion.pipeline.plan import POOL, SPLITS, Plan, method_of

_HERE = RunLayout(Path())  # gives files relative to the run's folder
_TABLES = {"claims": "tabulate_claims", "validity": "gather_validity"}
_PER_NETWORK = ("finetune_method", "predict_bounds", "trace_candidates")  # what a trained method goes through
_PER_METHOD = ("calibrate_method", "evaluate_method", "assess_validity")  # what every method goes through after that


@dataclass(frozen=True)
class PlannedJob:
    """One job of the workflow.

    Attributes:
        rule: Name of the rule.
        wildcards: What tells it from other jobs of the rule, joined by "-"; empty if there is one.
        output: The file that it writes last, relative to results/<run>.
        task: Name of the task, if it has one.
        split: Name of the split, if it has one.
        work: How many `unit` there are to do.
        unit: "images" (sampling), "steps" (training) or "jobs".
    """

    rule: str
    wildcards: str
    output: Path
    task: str = ""
    split: str = ""
    work: float = 1.0
    unit: str = "jobs"

    @property
    def name(self) -> str:
        """Name of its benchmark file and of its record, without the suffix."""
        return f"{self.rule}/{self.wildcards}" if self.wildcards else self.rule


def planned_jobs(plan: Plan, sizes: Mapping[str, int]) -> list[PlannedJob]:
    """All jobs, in the order of the workflow.

    Args:
        plan: The configuration's plan.
        sizes: Images of every split, as far as they are known.
    """
    jobs = [PlannedJob("save_config", "", _HERE.config), PlannedJob("split_images", "", _HERE.splits)]
    jobs += _priors(plan)
    for task in plan.tasks:
        jobs += [*_images(plan, task), *_sampling(plan, task, sizes), *_methods(plan, task)]
    return [*jobs, *_reporting(plan)]


def sampled_splits(plan: Plan) -> list[str]:
    """Splits of which variants are drawn."""
    wanted = {
        split for method_run in plan.method_runs if method_of(method_run).is_sampled for split in ("selection", *POOL)
    }
    wanted |= {"finetune" for method_run in plan.method_runs if method_of(method_run).target == "sampled_bounds"}
    return [split for split in SPLITS if split in wanted]


def _priors(plan: Plan) -> Iterator[PlannedJob]:
    for name in plan.used_priors:
        prior, output = plan.config.priors[name], _HERE.prior(name)
        if plan.prior_path(name) == str(plan.layout.prior(name)):
            if prior.checkpoint or prior.training is None:
                yield PlannedJob("import_prior", name, output)
            else:
                yield PlannedJob("train_prior", name, output, prior.task or "", "", prior.training.n_steps, "steps")


def _images(plan: Plan, task: str) -> Iterator[PlannedJob]:
    first = SPLITS if plan.trained_method_runs else ("selection", *POOL)
    paths = {plan.images(task, split, method_run): split for method_run in ["", *plan.method_runs] for split in first}
    for path, split in paths.items():
        folder = Path(path).parent.name
        output = _HERE.images(task, split, folder)
        yield PlannedJob("prepare_images", f"{task}-{folder}-{split}", output, task, split)


def _sampling(plan: Plan, task: str, sizes: Mapping[str, int]) -> Iterator[PlannedJob]:
    for split in sampled_splits(plan):
        n_shards = plan.n_shards(split)
        for k in range(n_shards):
            output = _HERE.variants(task, split, k, n_shards)
            shard = output.stem.removeprefix("shard-")
            work, unit = (sizes[split] / n_shards, "images") if split in sizes else (1.0, "jobs")
            yield PlannedJob("sample_variants", f"{task}-{split}-{shard}", output, task, split, work, unit)
    for split in sampled_splits(plan):
        output = _HERE.results(task, "dm_sb", "guaranteed").bounds(split)
        yield PlannedJob("extract_bounds", f"{task}-{split}", output, task, split)


def _methods(plan: Plan, task: str) -> Iterator[PlannedJob]:
    for rule in (*_PER_NETWORK, *_PER_METHOD):
        for method_run in plan.trained_method_runs if rule in _PER_NETWORK else plan.method_runs:
            if rule == "assess_validity" and method_run not in plan.first_method_runs:
                continue
            work, unit = 1.0, "jobs"
            if rule == "finetune_method":
                finetuning = plan.config.finetuning
                tuned = finetuning.tuned[task][method_of(method_run).name]
                work, unit = tuned.n_steps + finetuning.sharpening.n_steps, "steps"
            output = _last_output(rule, task, method_run)
            yield PlannedJob(rule, f"{task}-{method_run}", output, task, "", work, unit)


def _last_output(rule: str, task: str, method_run: str) -> Path:
    """The file that a job of a method run writes last."""
    results = _HERE.results(task, method_run, "guaranteed")
    return {
        "finetune_method": _HERE.training_curve(task, method_run),
        "predict_bounds": results.bounds("test"),
        "trace_candidates": _HERE.candidate_curves(task, method_run),
        "calibrate_method": results.calibration,
        "evaluate_method": results.curve,
        "assess_validity": _HERE.validity(task, method_run),
    }[rule]


def _reporting(plan: Plan) -> Iterator[PlannedJob]:
    for name in plan.tables:
        is_task = name in plan.tasks
        rule = "tabulate_task" if is_task else _TABLES.get(name, f"tabulate_{name}")
        yield PlannedJob(rule, name if is_task else "", _HERE.table(name))
    for name in plan.figures:
        yield _figure(plan, name)
    yield PlannedJob("write_report", "", _HERE.report)


def _figure(plan: Plan, name: str) -> PlannedJob:
    """The job of a figure named <kind>, <kind>_<task>, or <kind>_<task>_<method_run or protocol>."""
    output = _HERE.figure(name)
    for task in plan.tasks:
        kind, found, rest = name.partition(f"_{task}")
        if found:
            return PlannedJob(f"plot_{kind}", "-".join([task, *filter(None, [rest.removeprefix("_")])]), output, task)
    return PlannedJob(f"plot_{name}", "", output)
