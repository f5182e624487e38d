"""Rule split_images: which image belongs to which split; refused where a split is too small to calibrate."""

from functools import partial

from conffusion.pipeline.checks import check_dealt
from conffusion.pipeline.job import run_job
from conffusion.pipeline.stages.images import split_images

with run_job(snakemake) as job:  # noqa: F821
    check = partial(check_dealt, settings=job.settings.calibration)
    split_images(job.settings, output=job.output.splits, check=check, workers=job.threads)
