"""Rule plot_validity: violation rates over redrawn calibration sets."""

from conffusion.pipeline.job import run_job
from conffusion.report.figures.validity import plot_validity

with run_job(snakemake) as job:  # noqa: F821
    params = snakemake.params  # noqa: F821
    plot_validity(job.input.validity, job.output.png, delta=params.delta, n_variants=params.n_variants)
