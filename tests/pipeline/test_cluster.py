"""Checks before jobs are sent to a cluster."""

import pytest

from conffusion.errors import ConfigError
from conffusion.pipeline.cluster import check_array_jobs


@pytest.mark.parametrize(
    "limits", [{}, {"--jobs": None}, {"--jobs": 40}, {"--jobs": 41, "--scheduler-subsample": None}]
)
def test_limits_that_do_not_bind_are_fine(limits: dict[str, int | None]) -> None:
    check_array_jobs(40, limits)


def test_limit_that_binds_is_named_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"--jobs = 39: .* has 40 jobs; .*--slurm-array-jobs none"):
        check_array_jobs(40, {"--max-jobs-per-timespan": 1000, "--jobs": 39})
