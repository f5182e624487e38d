# Names shared by all rules. What they mean, and which files exist, is decided in conffusion/workflow.

from conffusion.config import parse_config
from conffusion.errors import ConffusionError
from conffusion.workflow.checks import checked_plan
from conffusion.workflow.code_digest import code_versions, write_code_versions
from conffusion.workflow.gpu import gpus_per_job
from conffusion.workflow.plan import (
    POOL,
    PROTOCOL_NAMES,
    SPLITS,
    config_text,
    method_of,
    official_files,
    replicate_of,
)

try:
    CONFIG = parse_config(config, source="config")
    PLAN = checked_plan(CONFIG)
except ConffusionError as error:
    raise WorkflowError(str(error))

RUN = PLAN.run
LOGS = f"{RUN}/logs"
TIMES = f"{RUN}/benchmarks"
GPUS = gpus_per_job(CONFIG.device)
CODE = code_versions(f"{RUN}/code.json", keep=CONFIG.keep_results_of_older_code)
ARM = f"{RUN}/{{task}}/{{arm}}"  # a method, with its replicate


RESULTS = f"{ARM}/{{protocol}}/metrics.json"  # comes with per_image.csv, curve.csv and positions.npz


wildcard_constraints:
    task="|".join(PLAN.tasks),
    arm="|".join(PLAN.arms + ["dm_sb"]),
    protocol="|".join(PROTOCOL_NAMES),
    split="|".join(SPLITS),
    k=r"\d{5}",
    n=r"\d{5}",
    trial=r"\d+",
    folder=r"images(-\d+)?",


onstart:
    write_code_versions(f"{RUN}/code.json", CODE)


def settings(stage):
    """Parameter function: what the stage depends on, for the job's task and arm."""
    return lambda wildcards: PLAN.settings(stage, wildcards.get("task", ""), wildcards.get("arm", ""))


def memory(stage):
    """Resource function: memory of the stage's jobs in MB."""
    return lambda wildcards: PLAN.memory_mb(stage, wildcards.task, wildcards.get("arm", "dm_sb"))


def images(split):
    """Input function: manifest of the images that the job's method sees, or of the task's own without a method."""
    return lambda wildcards: PLAN.images(wildcards.task, split, wildcards.get("arm", ""))


def images_of(*splits):
    """Input function: the same for several splits."""
    return lambda wildcards: [images(split)(wildcards) for split in splits]


def bounds(split):
    """Manifest of the bounds of one method under one protocol."""
    return f"{ARM}/{{protocol}}/bounds/{split}.json"


def protocols(pattern):
    """The pattern once for each protocol, in the order of PROTOCOL_NAMES; its other wildcards stay."""
    return expand(pattern, protocol=PROTOCOL_NAMES, allow_missing=True)


def store(manifest):
    """The zarr store beside a manifest, as an output."""
    return directory(manifest.removesuffix(".json") + ".zarr")


def every(pattern, **choices):
    """All files of a pattern over tasks, arms and protocols."""
    return expand(pattern, **{"task": PLAN.tasks, "arm": PLAN.arms, "protocol": PROTOCOL_NAMES, **choices})


def sampled_bounds(wildcards):
    """DM_SB's bounds of the fine-tuning images, for methods that are fitted to them."""
    if method_of(wildcards.arm).target != "sampled_bounds":
        return []
    return f"{RUN}/{wildcards.task}/dm_sb/guaranteed/bounds/finetune.json"


def results(**choices):
    """Metrics of the chosen tasks, arms and protocols; all of them where nothing is said."""
    return every(RESULTS, **{"arm": PLAN.arms, **choices})
