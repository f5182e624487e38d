"""Rule measure_solvers: calibrated size and CRPS of every solver, T and J on one task."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.stages.solver_study import measure_solvers

with run_job(snakemake) as job:  # noqa: F821
    measure_solvers(
        job.settings.solver_study,
        job.settings.alpha,
        job.settings.seed,
        images=job.input.images,
        variants=job.input.variants,
        output=job.output.rows,
    )
