"""Rule prepare_images: target, condition and mask of one task and split."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.stages.images import prepare_images

with run_job(snakemake) as job:  # noqa: F821
    prepare_images(
        job.settings,
        splits=job.input.splits,
        split=job.wildcards.split,
        output=job.output.manifest,
        workers=job.threads,
    )
