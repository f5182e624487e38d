"""Rule plot_position_risk: where in the image intervals miss."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import folders_of as folders
from conffusion.report.figures.positions import plot_position_risk

with run_job(snakemake) as job:  # noqa: F821
    plot_position_risk(folders(job.input.results), job.output.png, alpha=snakemake.params.alpha)  # noqa: F821
