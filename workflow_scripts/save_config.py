"""Rule save_config: the merged configuration beside the results it made."""

from conffusion.pipeline.job import run_job
from conffusion.store import write_text

with run_job(snakemake) as job:  # noqa: F821
    write_text(job.output[0], snakemake.params.text)  # noqa: F821
