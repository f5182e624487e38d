"""Rule try_settings: one trial of the search over fine-tuning settings."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.finetuning import finetuning_inputs
    from conffusion.pipeline.stages.tuning import try_settings
    from conffusion.pipeline.states import states_of

    device, minutes = job.device(), job.settings.finetuning.checkpoint_every_minutes
    states = states_of(job, device, minutes)
    try_settings(job.settings, finetuning_inputs(job.input), job.output.result, states, device)
