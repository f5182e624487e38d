"""Rule finetune_method: fit one method to one task."""

from pathlib import Path

from conffusion.workflow.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.stages.finetuning import FinetuningOutputs, finetune_method
    from conffusion.workflow.finetuning import finetuning_inputs, finetuning_job

    outputs = FinetuningOutputs(
        models={protocol: Path(job.output[protocol]) for protocol in ("paper", "guaranteed")},
        candidates=Path(job.output.candidates),
        curve=Path(job.output.curve),
    )
    finetune_method(finetuning_job(job.settings), finetuning_inputs(job.input), outputs, job.compute())
