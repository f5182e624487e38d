"""What must hold before jobs are sent to a cluster."""

from collections.abc import Mapping

from conffusion.errors import ConfigError


def check_array_jobs(n_jobs: int, limits: Mapping[str, int | None]) -> None:
    """Refuse limits under which the Slurm executor plugin would lose jobs of an array and wait for them for ever.

    Its version 2.8.0 drops picked jobs of an array's rule when others of that rule are ready but not picked
    (https://github.com/snakemake/snakemake-executor-plugin-slurm/issues/473).

    Args:
        n_jobs: Jobs of the run.
        limits: Command-line option to the number of jobs that it lets Snakemake pick at a time; None where it does not.
    Raises:
        ConfigError: If a limit is below the number of jobs.
    """
    for option, limit in limits.items():
        if limit is not None and limit < n_jobs:
            raise ConfigError(
                f"{option} = {limit}: the Slurm executor cannot hold back jobs of an array, and this run has {n_jobs} "
                f"jobs; leave {option} as profiles/slurm has it and limit running jobs in Slurm, or add "
                "--slurm-array-jobs none, which sends every job by itself"
            )
