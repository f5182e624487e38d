"""Rule tabulate_task: one row per method and protocol."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import folders_of as folders
from conffusion.report.tables import write_task_table

with run_job(snakemake) as job:  # noqa: F821
    write_task_table(folders(job.input.results), job.output.csv)
