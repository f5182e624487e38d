"""Rule plot_bounds: what every bound and set family costs."""

from conffusion.pipeline.job import run_job
from conffusion.report.figures.bounds import plot_bounds

with run_job(snakemake) as job:  # noqa: F821
    params = snakemake.params  # noqa: F821
    plot_bounds(job.input.validity, job.output.png, delta=params.delta, n_variants=params.n_variants)
