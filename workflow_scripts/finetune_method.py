"""Rule finetune_method: fit one method to one task."""

from pathlib import Path

from conffusion.workflow.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.methods.registry import get_method
    from conffusion.stages.finetuning import FinetuningFiles, FinetuningJob, finetune_method

    values = dict(job.settings)
    method = get_method(values.pop("method"))
    compute = job.compute()
    files = FinetuningFiles(
        prior=Path(job.input.prior),
        splits=Path(job.input.splits),
        images={split: Path(job.input[split]) for split in ("finetune", "selection", "calibration")},
        sampled_bounds=Path(job.input.sampled_bounds) if job.input.get("sampled_bounds") else None,
        models={protocol: Path(job.output[protocol]) for protocol in ("paper", "guaranteed")},
        candidates=Path(job.output.candidates),
        curve=Path(job.output.curve),
    )
    finetune_method(FinetuningJob(method=method, **values), files, compute)
