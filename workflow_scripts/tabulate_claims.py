"""Rule tabulate_claims: the paper's claims with their verdicts."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import folders_of as folders
from conffusion.report.claims import write_claims

with run_job(snakemake) as job:  # noqa: F821
    params = snakemake.params  # noqa: F821
    write_claims(
        folders(job.input.results), job.output.csv, alpha=params.alpha, n_bootstrap=params.n_bootstrap,
        seed=params.seed, replicates=params.replicates,
    )  # fmt: skip
