"""Rule study_solver: variants of the first selection images by one solver with one number of steps."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.stages.sampling import SamplingJob, sample_variants

    choice = {
        "solver": job.wildcards.solver, "n_steps": int(job.wildcards.n_steps),
        "n_variants": snakemake.params.n_variants,  # noqa: F821
        "adaptive_stopping": job.config.sampling.adaptive_stopping.model_copy(update={"precision": None}),
    }  # fmt: skip
    settings, sampling = job.settings, job.config.sampling.model_copy(update=choice)
    sample_variants(
        SamplingJob(settings["prior"], sampling, settings["seed"], n_images=settings["n_images"]),
        job.device(),
        checkpoint=job.input.prior,
        images=job.input.images,
        shard=(0, 1),
        output=job.output.manifest,
    )
