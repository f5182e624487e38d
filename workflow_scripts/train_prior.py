"""Rule train_prior: one pretrained network, stored in half precision to keep it small."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.states import states_of
    from conffusion.training.priors import PriorJob, write_prior

    device, own_images = job.device(), next(iter(job.input.get("images", [])), None)
    prior = PriorJob(**job.settings)
    write_prior(prior, device, images=own_images, output=job.output.checkpoint, states=states_of(job, device))
