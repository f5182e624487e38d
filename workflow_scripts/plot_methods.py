"""Rule plot_methods: all methods on the same images."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import folders_of as folders
from conffusion.report.figures.methods import plot_methods

with run_job(snakemake) as job:  # noqa: F821
    plot_methods(
        job.input.images,
        folders(job.input.results),
        job.output.png,
        shown=snakemake.params.shown,  # noqa: F821
    )
