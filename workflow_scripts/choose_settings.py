"""Rule choose_settings: the best settings of every task and method, and the table of all trials."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.stages.tuning import choose_settings

with run_job(snakemake) as job:  # noqa: F821
    choose_settings(job.input.trials, job.output.table, job.output.chosen)
