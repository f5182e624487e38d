"""Rule sample_priors: samples of every diffusion prior."""

from conffusion.config.schema import PriorSettings
from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.stages.prior_samples import PriorSampleFiles, sample_priors

    params = snakemake.params  # noqa: F821
    sample_priors(
        {name: PriorSettings(**prior) for name, prior in job.settings["priors"].items()},
        job.settings["sampling"],
        job.settings["seed"],
        job.device(),
        PriorSampleFiles(
            checkpoints=dict(zip(params.names, job.input.checkpoints, strict=True)),
            images=dict(zip(params.tasks, job.input.images, strict=True)),
            output=job.output.samples,
        ),
    )
