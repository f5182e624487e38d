"""Rule extract_bounds: per-pixel quantiles of the variants."""

from conffusion.stages.bounds import extract_bounds
from conffusion.workflow.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    extract_bounds(
        job.settings["alpha"], job.wildcards.protocol, shards=job.input.shards, output=job.output.manifest
    )
