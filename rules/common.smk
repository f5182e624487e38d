# Names shared by all rules. What they mean, and which files exist, is decided in conffusion/pipeline.

from pathlib import Path

from conffusion.config import parse_config
from conffusion.errors import ConffusionError
from conffusion.pipeline.checks import checked_plan
from conffusion.pipeline.cluster import check_array_jobs
from conffusion.pipeline.code_digest import code_versions, write_code_versions
from conffusion.pipeline.gpu import gpus_per_job
from conffusion.pipeline.plan import (
    POOL,
    PROTOCOL_NAMES,
    SPLITS,
    config_text,
    method_of,
    official_files,
    replicate_of,
)
from conffusion.pipeline.records import job_name
from conffusion.pipeline.rule_settings import RuleSettings

try:
    CONFIG = parse_config(config, source="config")
    PLAN = checked_plan(CONFIG)
    SETTINGS = RuleSettings(PLAN)
except ConffusionError as error:
    raise WorkflowError(str(error))

logger.info("", extra={"conffusion_plan": PLAN})  # for the logger plugin, as below
RUN = PLAN.layout
LOGS = RUN.logs
TIMES = RUN.benchmarks
GPUS = gpus_per_job(CONFIG.device)
CODE = code_versions(f"{workflow.basedir}/workflow_scripts", RUN.code, keep=CONFIG.ignore_code_changes)
METHOD_RUN = ("{task}", "{method_run}")  # a method, with its replicate
RESULTS = RUN.results(*METHOD_RUN, "{protocol}")
GUARANTEED = RUN.results(*METHOD_RUN, "guaranteed")


# A limit such as --resources gpu=2 counts the GPUs of this machine: jobs that are sent to a cluster do not wait for them.
resource_scopes:
    gpu="local",


wildcard_constraints:
    task="|".join(PLAN.tasks),
    method_run="|".join(PLAN.method_runs + ["dm_sb"]),
    protocol="|".join(PROTOCOL_NAMES),
    split="|".join(SPLITS),
    k=r"\d{5}",
    n=r"\d{5}",
    trial=r"\d+",
    folder=r"images(-\d+)?",


onstart:
    if CONFIG.device == "auto" and not workflow.local_exec:
        logger.warning(
            f"device: auto looked for a GPU on this machine: jobs ask for {GPUS}. Say cuda or cpu for a cluster"
        )
    if getattr(workflow.executor_settings, "array_jobs", None) not in (None, "none"):
        try:
            check_array_jobs(
                sum(1 for _ in workflow.dag.needrun_jobs()),
                {
                    "--jobs": workflow.resource_settings.nodes,
                    "--max-jobs-per-timespan": workflow.scheduling_settings.max_jobs_per_timespan.max_jobs,
                    "--scheduler-subsample": workflow.scheduling_settings.subsample,
                },
            )
        except ConffusionError as error:
            raise WorkflowError(str(error))
    write_code_versions(RUN.code, CODE)
    jobs = [job_name(job.log[0], job.rule.name) for job in workflow.dag.needrun_jobs() if job.log]
    logger.info("", extra={"conffusion_jobs": jobs})


def settings(rule):
    """Parameter function: digest of what the results of a rule's job depend on; its script gets the settings."""
    return lambda wildcards: SETTINGS(rule, **wildcards).digest


def growing(amount):
    """Resource function: an amount, or a function of the wildcards, times the attempt: a job that is retried gets more."""
    return lambda wildcards, attempt: attempt * (amount(wildcards) if callable(amount) else amount)


def memory(stage):
    """Resource function: memory of the stage's jobs in MB, growing."""
    return growing(lambda wildcards: PLAN.memory_mb(stage, wildcards.task, wildcards.get("method_run", "dm_sb")))


def largest_memory(stage):
    """The same for the jobs of an array, which make one request: that of the task that needs most."""
    return growing(max(PLAN.memory_mb(stage, task, "dm_sb") for task in PLAN.tasks))


def images(split):
    """Input function: manifest of the images that the job's method sees, or of the task's own without a method."""
    return lambda wildcards: PLAN.images(wildcards.task, split, wildcards.get("method_run", ""))


def images_of(*splits):
    """Input function: the same for several splits."""
    return lambda wildcards: [images(split)(wildcards) for split in splits]


def protocols(pattern):
    """The pattern once for each protocol, in the order of PROTOCOL_NAMES; its other wildcards stay."""
    return expand(pattern, protocol=PROTOCOL_NAMES, allow_missing=True)


def store(manifest):
    """The zarr store beside a manifest, as an output."""
    return directory(Path(manifest).with_suffix(".zarr"))


def beside(file, *suffixes):
    """A file and those of the same name that are written with it, each under its suffix without the dot."""
    return multiext(str(Path(file).with_suffix("")), **{suffix: f".{suffix}" for suffix in suffixes})


def every(pattern, **choices):
    """All files of a pattern over tasks, method_runs and protocols."""
    return expand(pattern, **{"task": PLAN.tasks, "method_run": PLAN.method_runs, "protocol": PROTOCOL_NAMES, **choices})


def sampled_bounds(wildcards):
    """DM_SB's bounds of the fine-tuning images, for methods that are fitted to them."""
    if method_of(wildcards.method_run).target != "sampled_bounds":
        return []
    return RUN.results(wildcards.task, "dm_sb", "guaranteed").bounds("finetune")


def results(**choices):
    """Metrics of the chosen tasks, method_runs and protocols; all of them where nothing is said."""
    return every(RESULTS.metrics, **{"method_run": PLAN.method_runs, **choices})
