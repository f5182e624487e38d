"""Rule study_solver: variants of the first selection images by one solver with one number of steps."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.stages.sampling import sample_variants

    sample_variants(
        job.settings,
        job.device(),
        checkpoint=job.input.prior,
        images=job.input.images,
        shard=(0, 1),
        output=job.output.manifest,
    )
