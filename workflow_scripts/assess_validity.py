"""Rule assess_validity: violation rates of one method over redrawn calibration sets."""

from pathlib import Path

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import PROTOCOL_NAMES, method_of
from conffusion.pipeline.stages.validity import ValidityFiles, assess_method_validity

with run_job(snakemake) as job:  # noqa: F821
    candidates = job.input.get("candidates")
    files = ValidityFiles(
        calibrations={name: Path(path) for name, path in zip(PROTOCOL_NAMES, job.input.calibrations, strict=True)},
        pools={name: Path(path) for name, path in zip(PROTOCOL_NAMES, job.input.pools, strict=True)},
        candidates=Path(candidates) if candidates else None,
        compared=[(Path(a), Path(b)) for a, b in zip(job.input.bounds, job.input.images, strict=True)],
        splits=Path(job.input.splits),
        output=Path(job.output.rows),
    )
    assess_method_validity(job.wildcards.task, method_of(job.wildcards.method_run).name, job.settings, files)
