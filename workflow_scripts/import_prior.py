"""Rule import_prior: an official checkpoint in this project's format."""

from conffusion.workflow.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.stages.importing import import_prior

    import_prior(job.settings["name"], job.settings["prior"], job.output.checkpoint)
