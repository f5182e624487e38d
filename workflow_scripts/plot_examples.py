"""Rule plot_examples: input, bounds, truth, error and interval size of some test images."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import folders_of as folders
from conffusion.report.figures.examples import plot_examples

with run_job(snakemake) as job:  # noqa: F821
    plot_examples(
        job.input.images,
        *folders([job.input.results]),
        job.output.png,
        **snakemake.params.examples,  # noqa: F821
    )
