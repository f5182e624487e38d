"""The jobs of `snakemake all` as data: their names, the file that each writes last, and how much there is to do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from conffusion.pipeline.plan import POOL, SPLITS, Plan, method_of

_TABLES = {"claims": "tabulate_claims", "validity": "gather_validity"}
_PER_METHOD = {  # what every method goes through once its bounds are there, and the file that is written last
    "calibrate_method": "guaranteed/calibration.json",
    "evaluate_method": "guaranteed/curve.csv",
    "assess_validity": "validity.csv",
}
_PER_NETWORK = {
    "finetune_method": "training.csv",
    "predict_bounds": "guaranteed/bounds/test.json",
    "trace_candidates": "candidate_curves",
}


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
    output: str
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
    jobs = [PlannedJob("save_config", "", "config.yaml"), PlannedJob("split_images", "", "splits.csv")]
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
        path, prior = plan.prior_path(name), plan.config.priors[name]
        if path.startswith(f"{plan.run}/"):
            output = path.removeprefix(f"{plan.run}/")
            if prior.checkpoint or prior.training is None:
                yield PlannedJob("import_prior", name, output)
            else:
                yield PlannedJob("train_prior", name, output, prior.task or "", "", prior.training.n_steps, "steps")


def _images(plan: Plan, task: str) -> Iterator[PlannedJob]:
    first = SPLITS if plan.trained_method_runs else ("selection", *POOL)
    paths = {plan.images(task, split, method_run): split for method_run in ["", *plan.method_runs] for split in first}
    for path, split in paths.items():
        folder = path.split("/")[-2]
        yield PlannedJob("prepare_images", f"{task}-{folder}-{split}", f"{task}/{folder}/{split}.json", task, split)


def _sampling(plan: Plan, task: str, sizes: Mapping[str, int]) -> Iterator[PlannedJob]:
    for split in sampled_splits(plan):
        shards = plan.shards(task, split)
        for path in shards:
            output = path.removeprefix(f"{plan.run}/")
            shard = output.rpartition("/shard-")[2].removesuffix(".json")
            work, unit = (sizes[split] / len(shards), "images") if split in sizes else (1.0, "jobs")
            yield PlannedJob("sample_variants", f"{task}-{split}-{shard}", output, task, split, work, unit)
    for split in sampled_splits(plan):
        output = f"{task}/dm_sb/guaranteed/bounds/{split}.json"
        yield PlannedJob("extract_bounds", f"{task}-{split}", output, task, split)


def _methods(plan: Plan, task: str) -> Iterator[PlannedJob]:
    for rule, output in {**_PER_NETWORK, **_PER_METHOD}.items():
        for method_run in plan.trained_method_runs if rule in _PER_NETWORK else plan.method_runs:
            if rule == "assess_validity" and method_run not in plan.first_method_runs:
                continue
            work, unit = 1.0, "jobs"
            if rule == "finetune_method":
                finetuning = plan.config.finetuning
                tuned = finetuning.tuned[task][method_of(method_run).name]
                work, unit = tuned.n_steps + finetuning.sharpening.n_steps, "steps"
            yield PlannedJob(rule, f"{task}-{method_run}", f"{task}/{method_run}/{output}", task, "", work, unit)


def _reporting(plan: Plan) -> Iterator[PlannedJob]:
    for name in plan.tables:
        is_task = name in plan.tasks
        rule = "tabulate_task" if is_task else _TABLES.get(name, f"tabulate_{name}")
        yield PlannedJob(rule, name if is_task else "", f"tables/{name}.csv")
    for name in plan.figures:
        yield _figure(plan, name)
    yield PlannedJob("write_report", "", "report.html")


def _figure(plan: Plan, name: str) -> PlannedJob:
    """The job of a figure named <kind>, <kind>_<task>, or <kind>_<task>_<method_run or protocol>."""
    output = f"figures/{name}.png"
    for task in plan.tasks:
        kind, found, rest = name.partition(f"_{task}")
        if found:
            return PlannedJob(f"plot_{kind}", "-".join([task, *filter(None, [rest.removeprefix("_")])]), output, task)
    return PlannedJob(f"plot_{name}", "", output)
