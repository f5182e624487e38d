"""Rule calibrate_method: lambda_hat of one method under one protocol."""

from conffusion.stages.evaluation import calibrate_method
from conffusion.workflow.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    calibrate_method(
        job.settings["calibration"],
        job.wildcards.protocol,
        bounds=job.input.bounds,
        images=job.input.images,
        splits=job.input.splits,
        output=job.output.calibration,
    )
