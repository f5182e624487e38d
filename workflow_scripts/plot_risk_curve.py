"""Rule plot_risk_curve: risk against lambda, with lambda_hat."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import folders_of as folders
from conffusion.report.figures.risk import plot_risk_curve

with run_job(snakemake) as job:  # noqa: F821
    plot_risk_curve(folders(job.input.results), job.output.png, alpha=snakemake.params.alpha)  # noqa: F821
