"""Rule train_prior: one pretrained network, stored in half precision to keep it small."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.states import states_of
    from conffusion.training.priors import write_prior

    settings, device = job.settings, job.device()
    write_prior(
        settings.name,
        settings.prior,
        settings.degradation,
        image_size=settings.image_size,
        seed=settings.seed,
        device=device,
        output=job.output.checkpoint,
        images=next(iter(job.input.get("images", [])), None),
        states=states_of(job, device, settings.checkpoint_every_minutes),
    )
