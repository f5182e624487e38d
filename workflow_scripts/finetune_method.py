"""Rule finetune_method: fit one method to one task, in one process or in several."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.finetuning import FinetuningCall, finetune, finetune_in_processes
    from conffusion.training.parallel import ALONE

    call = FinetuningCall.of(job)
    if job.settings.finetuning.processes == 1:
        finetune(call, job.device(), ALONE)
    else:
        finetune_in_processes(call)
