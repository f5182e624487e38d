"""Rule plot_priors: contact sheet of the priors' samples."""

from conffusion.pipeline.job import run_job
from conffusion.report.figures.priors import plot_prior_samples

with run_job(snakemake) as job:  # noqa: F821
    plot_prior_samples(job.input.samples, job.output.png)
