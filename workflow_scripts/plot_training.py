"""Rule plot_training: loss and checkpoints of every fine-tuning run."""

from conffusion.pipeline.job import run_job
from conffusion.report.figures.training import plot_training

with run_job(snakemake) as job:  # noqa: F821
    plot_training(job.input.curves, job.output.png)
