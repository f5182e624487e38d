"""Rule sample_priors: samples of every diffusion prior."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.stages.prior_samples import PriorSampleFiles, sample_priors

    sample_priors(
        job.settings,
        job.device(),
        PriorSampleFiles(
            checkpoints=dict(zip(job.params.names, job.input.checkpoints, strict=True)),
            images=dict(zip(job.params.tasks, job.input.images, strict=True)),
            output=job.output.samples,
        ),
    )
