"""Rule import_prior: an official checkpoint in this project's format."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.stages.importing import import_prior

    import_prior(job.settings.name, job.settings.prior, job.output.checkpoint)
