"""Rule evaluate_method: metrics of one method under every protocol."""

from pathlib import Path

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import POOL, PROTOCOL_NAMES, method_of, replicate_of
from conffusion.pipeline.stages.evaluation import EvaluationFiles, evaluate_method

with run_job(snakemake) as job:  # noqa: F821
    method_run = job.wildcards.method_run
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
        evaluate_method(method_of(method_run).name, replicate_of(method_run), protocol, files)
