"""Rule split_images: which image belongs to which split."""

from conffusion.stages.images import split_images
from conffusion.workflow.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    split_images(**job.settings, output=job.output.splits)
