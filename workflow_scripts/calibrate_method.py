"""Rule calibrate_method: lambda_hat of one method under every protocol."""

from conffusion.stages.evaluation import calibrate_method
from conffusion.workflow.job import run_job
from conffusion.workflow.plan import PROTOCOL_NAMES

with run_job(snakemake) as job:  # noqa: F821
    for protocol, bounds, output in zip(PROTOCOL_NAMES, job.input.bounds, job.output.calibrations, strict=True):
        calibrate_method(
            job.settings["calibration"],
            protocol,
            bounds=bounds,
            images=job.input.images,
            splits=job.input.splits,
            output=output,
        )
