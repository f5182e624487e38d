"""Rule sample_variants: J variants of the images of one shard."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.stages.sampling import SamplingJob, sample_variants

    settings = job.settings
    sample_variants(
        SamplingJob(settings["prior"], job.config.sampling, settings["seed"], job.config.calibration.alpha),
        job.device(),
        checkpoint=job.input.prior,
        images=job.input.images,
        shard=(int(job.wildcards.k), int(job.wildcards.n)),
        output=job.output.manifest,
    )
