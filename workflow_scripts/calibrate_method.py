"""Rule calibrate_method: set family and lambda_hat of one method under every protocol."""

from pathlib import Path

from conffusion.methods.protocols import official_grid
from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import PROTOCOL_NAMES, method_of
from conffusion.pipeline.stages.calibration import CalibrationFiles, calibrate_method

with run_job(snakemake) as job:  # noqa: F821
    settings = job.settings
    grid = official_grid(job.wildcards.task, method_of(job.wildcards.method_run)) if settings.official_quirks else None
    for k, protocol in enumerate(PROTOCOL_NAMES):
        files = CalibrationFiles(
            bounds=Path(job.input.bounds[k]),
            images=Path(job.input.images),
            splits=Path(job.input.splits),
            output=Path(job.output.calibrations[k]),
            selection=(Path(job.input.selection_bounds[k]), Path(job.input.selection_images)),
        )
        calibrate_method(settings.calibration, protocol, settings.seed, files, grid)
