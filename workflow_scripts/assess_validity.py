"""Rule assess_validity: violation rates of one method over redrawn calibration sets."""

from conffusion.stages.evaluation import assess_method_validity
from conffusion.workflow.job import run_job
from conffusion.workflow.plan import PROTOCOL_NAMES, method_of

with run_job(snakemake) as job:  # noqa: F821
    assess_method_validity(
        job.wildcards.task,
        method_of(job.wildcards.arm).name,
        **job.settings,
        calibrations=dict(zip(PROTOCOL_NAMES, job.input.calibrations, strict=True)),
        pools=dict(zip(PROTOCOL_NAMES, job.input.pools, strict=True)),
        candidates=job.input.get("candidates") or None,
        output=job.output.rows,
    )
