"""Rule predict_bounds: bounds of every split by one fine-tuned network."""

from conffusion.workflow.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.stages.prediction import predict_method_bounds

    splits = ("selection", "calibration", "test")
    predict_method_bounds(
        job.wildcards.protocol, job.settings["seed"], job.compute(), model=job.input.model,
        images={split: job.input[split] for split in splits}, outputs={split: job.output[split] for split in splits},
    )
