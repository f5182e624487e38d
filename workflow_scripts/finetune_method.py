"""Rule finetune_method: fit one method to one task, in one process or in several."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.finetuning import FinetuningCall, finetune, finetune_with
    from conffusion.training.parallel import ALONE

    n_processes = job.config.finetuning.processes
    call = FinetuningCall.of(job, n_processes)
    if n_processes == 1:
        finetune(call, job.device(), ALONE)
    else:
        finetune_with(n_processes, call)
