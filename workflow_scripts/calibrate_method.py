"""Rule calibrate_method: lambda_hat of one method under every protocol."""

from conffusion.methods.protocols import official_grid
from conffusion.stages.evaluation import calibrate_method
from conffusion.workflow.job import run_job
from conffusion.workflow.plan import PROTOCOL_NAMES, method_of

with run_job(snakemake) as job:  # noqa: F821
    grid = official_grid(job.wildcards.task, method_of(job.wildcards.arm)) if job.settings["official_quirks"] else None
    for protocol, bounds, output in zip(PROTOCOL_NAMES, job.input.bounds, job.output.calibrations, strict=True):
        calibrate_method(
            job.settings["calibration"],
            protocol,
            bounds=bounds,
            images=job.input.images,
            splits=job.input.splits,
            output=output,
            grid=grid,
        )
