"""Rule study_solver: variants of the first selection images by one solver with one number of steps."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.stages.sampling import sample_variants

    choice = {
        "solver": job.wildcards.solver, "n_steps": int(job.wildcards.n_steps),
        "n_variants": snakemake.params.n_variants,  # noqa: F821
        "adaptive_stopping": job.config.sampling.adaptive_stopping.model_copy(update={"precision": None}),
    }  # fmt: skip
    sample_variants(
        job.settings["prior"],
        job.config.sampling.model_copy(update=choice),
        job.config.calibration.alpha,
        job.settings["seed"],
        job.device(),
        checkpoint=job.input.prior,
        images=job.input.images,
        shard=(0, 1),
        output=job.output.manifest,
        most_images=job.settings["n_images"],
    )
