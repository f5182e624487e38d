"""Rule gather_validity: violation rates of all methods in one table."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.stages.validity import gather_rows

with run_job(snakemake) as job:  # noqa: F821
    gather_rows(job.input.rows, job.output.table)
