"""Rule tabulate_speed: forward passes and seconds per image, and the cost of every rule."""

from conffusion.report.tables import write_speed_table
from conffusion.workflow.job import run_job
from conffusion.workflow.plan import folders_of as folders

with run_job(snakemake) as job:  # noqa: F821
    write_speed_table(folders(job.input.results), snakemake.params.benchmarks, job.output.csv)  # noqa: F821
