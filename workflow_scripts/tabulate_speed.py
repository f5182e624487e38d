"""Rule tabulate_speed: what every rule cost, and what an image costs with every method."""

from pathlib import Path

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import folders_of as folders
from conffusion.pipeline.records import gpus_held
from conffusion.report.speed import RunFolder, write_speed_table

with run_job(snakemake) as job:  # noqa: F821
    params = snakemake.params  # noqa: F821
    run = RunFolder(Path(params.run), params.batch_size, params.prior_images, gpus_held(params.run))
    write_speed_table(folders(job.input.results), run, job.output.csv)
