"""Rule train_prior: one pretrained network, stored in half precision to keep it small."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.states import states_of
    from conffusion.training.priors import PriorJob, write_prior

    settings, device = job.settings, job.device()
    write_prior(
        PriorJob(settings.name, settings.prior, settings.degradation, settings.image_size, settings.seed),
        device,
        images=next(iter(job.input.get("images", [])), None),
        output=job.output.checkpoint,
        states=states_of(job, device, settings.checkpoint_every_minutes),
    )
