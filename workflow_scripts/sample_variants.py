"""Rule sample_variants: J variants of the images of one shard."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.stages.sampling import sample_variants

    sample_variants(
        job.settings,
        job.device(),
        checkpoint=job.input.prior,
        images=job.input.images,
        shard=(int(job.wildcards.k), int(job.wildcards.n)),
        output=job.output.manifest,
    )
