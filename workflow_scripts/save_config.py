"""Rule save_config: the merged configuration beside the results it made."""

from conffusion.store import write_text
from conffusion.pipeline.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    write_text(job.output[0], snakemake.params.text)  # noqa: F821
