"""Rule choose_solver: the table and the figure of the solver study, and the cheapest setting that is good enough."""

import pandas as pd

from conffusion.pipeline.job import run_job
from conffusion.pipeline.stages.solver_study import choose_solver, write_choice
from conffusion.report.figures.solvers import plot_solvers
from conffusion.report.results import read_csv
from conffusion.report.writing import write_table

with run_job(snakemake) as job:  # noqa: F821
    params = snakemake.params  # noqa: F821
    table = pd.concat([read_csv(path) for path in job.input.rows])
    choice = choose_solver(table, params.tolerance)
    write_table(table, job.output.csv)
    plot_solvers(table, choice, params.reference, job.output.png, tolerance=params.tolerance)
    write_choice(choice, job.output.chosen)
