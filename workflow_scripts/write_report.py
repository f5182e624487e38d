"""Rule write_report: one self-contained page."""

from pathlib import Path

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import heading
from conffusion.pipeline.versions import versions
from conffusion.report.html import write_report

with run_job(snakemake) as job:  # noqa: F821
    write_report(
        job.output.report,
        config_path=job.input.config[0],
        tables={heading(table): Path(table) for table in job.input.tables},
        figures={heading(figure): Path(figure) for figure in job.input.figures},
        versions=versions(),
    )
