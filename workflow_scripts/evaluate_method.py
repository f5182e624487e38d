"""Rule evaluate_method: metrics of one method under one protocol."""

from pathlib import Path

from conffusion.stages.evaluation import EvaluationFiles, evaluate_method
from conffusion.workflow.job import run_job
from conffusion.workflow.plan import POOL, method_of, replicate_of

with run_job(snakemake) as job:  # noqa: F821
    files = EvaluationFiles(
        calibration=Path(job.input.calibration),
        bounds={split: Path(job.input[f"{split}_bounds"]) for split in POOL},
        images={split: Path(job.input[f"{split}_images"]) for split in POOL},
        splits=Path(job.input.splits),
        **{name: Path(job.output[name]) for name in ("metrics", "per_image", "curve", "pool")},
    )
    arm = job.wildcards.arm
    evaluate_method(method_of(arm).name, replicate_of(arm), job.wildcards.protocol, files)
