"""Rule measure_solvers: calibrated size and CRPS of every solver, T and J on one task."""

from conffusion.report.writing import write_csv
from conffusion.stages.solver_study import measure_solvers
from conffusion.workflow.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    params = snakemake.params  # noqa: F821
    rows = measure_solvers(
        job.settings["solver_study"], params.alpha, params.seed, images=job.input.images, variants=job.input.variants
    )
    write_csv(rows, job.output.rows)
