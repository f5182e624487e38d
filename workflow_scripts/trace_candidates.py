"""Rule trace_candidates: loss curves of all checkpoints of one fine-tuning run."""

from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.pipeline.stages.prediction import trace_candidates

    trace_candidates(
        job.settings.seed,
        job.device(),
        candidates=job.input.candidates,
        images=job.input.images,
        splits=job.input.splits,
        output=job.output.curves,
    )
