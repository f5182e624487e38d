"""Rule plot_size_risk: interval size against risk."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import folders_of as folders
from conffusion.report.figures.risk import plot_size_risk

with run_job(snakemake) as job:  # noqa: F821
    plot_size_risk(folders(job.input.results), job.output.png, alpha=snakemake.params.alpha)  # noqa: F821
