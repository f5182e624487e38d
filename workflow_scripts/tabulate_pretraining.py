"""Rule tabulate_pretraining: diffusion pretraining against ResNeXt and ResNeSt."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import folders_of as folders
from conffusion.report.tables import write_pretraining_table

with run_job(snakemake) as job:  # noqa: F821
    write_pretraining_table(folders(job.input.results), job.output.csv)
