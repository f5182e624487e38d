"""Rule evaluate_method: metrics of one method under every protocol."""

from pathlib import Path

from conffusion.pipeline.stages.evaluation import EvaluationFiles, evaluate_method
from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import POOL, PROTOCOL_NAMES, method_of, replicate_of

with run_job(snakemake) as job:  # noqa: F821
    arm = job.wildcards.arm
    for k, protocol in enumerate(PROTOCOL_NAMES):
        files = EvaluationFiles(
            calibration=Path(job.input.calibrations[k]),
            bounds={split: Path(job.input[f"{split}_bounds"][k]) for split in POOL},
            images={split: Path(job.input[f"{split}_images"]) for split in POOL},
            splits=Path(job.input.splits),
            metrics=Path(job.output.metrics[k]),
            per_image=Path(job.output.per_image[k]),
            curve=Path(job.output.curve[k]),
            positions=Path(job.output.positions[k]),
            pool=Path(job.output.pools[k]),
        )
        evaluate_method(method_of(arm).name, replicate_of(arm), protocol, files)
