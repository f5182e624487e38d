"""Rule train_prior: one pretrained network, stored in half precision to keep it small."""

from conffusion.workflow.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.training.priors import write_prior

    own_images = next(iter(job.input.get("images", [])), None)
    write_prior(**job.settings, images=own_images, compute=job.compute(), output=job.output.checkpoint)
