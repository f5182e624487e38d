"""Rule plot_stratified_risk: risk by quartile of interval size."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import folders_of as folders
from conffusion.report.figures.risk import plot_stratified_risk

with run_job(snakemake) as job:  # noqa: F821
    plot_stratified_risk(folders(job.input.results), job.output.png, alpha=snakemake.params.alpha)  # noqa: F821
