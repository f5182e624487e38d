"""Rule train_prior: one pretrained network, stored in half precision to keep it small."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.states import states_of
    from conffusion.training.priors import write_prior

    device, own_images = job.device(), next(iter(job.input.get("images", [])), None)
    write_prior(
        **job.settings,
        images=own_images,
        device=device,
        output=job.output.checkpoint,
        states=states_of(job, device),
    )
