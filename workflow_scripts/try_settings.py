"""Rule try_settings: one trial of the search over fine-tuning settings."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.finetuning import finetuning_inputs, finetuning_job
    from conffusion.pipeline.stages.tuning import try_settings, with_trial
    from conffusion.pipeline.states import states_of

    settings = dict(job.settings)
    trial = with_trial(finetuning_job(settings), settings["tuning"], int(job.wildcards.trial))
    device = job.device()
    try_settings(trial, finetuning_inputs(job.input), job.output.result, states_of(job, device), device)
