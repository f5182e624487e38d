"""Rule extract_bounds: per-pixel quantiles of the variants."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import PROTOCOL_NAMES
from conffusion.pipeline.stages.bounds import extract_bounds

with run_job(snakemake) as job:  # noqa: F821
    outputs = dict(zip(PROTOCOL_NAMES, job.output.manifests, strict=True))
    extract_bounds(job.settings.alpha, shards=job.input.shards, outputs=outputs)
