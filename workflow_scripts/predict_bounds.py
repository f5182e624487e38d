"""Rule predict_bounds: bounds of every split by the chosen checkpoints of one method."""

from conffusion.pipeline.job import run_job
from conffusion.pipeline.plan import PROTOCOL_NAMES

with run_job(snakemake) as job:  # noqa: F821
    from conffusion.methods.protocols import get_protocol
    from conffusion.pipeline.stages.prediction import predict_method_bounds

    n_splits = len(job.input.images)
    for k, (protocol, model) in enumerate(zip(PROTOCOL_NAMES, job.input.models, strict=True)):
        outputs = job.output.manifests[k * n_splits : (k + 1) * n_splits]
        predict_method_bounds(
            get_protocol(protocol, official_quirks=job.settings.official_quirks), job.settings, job.device(),
            model=model, images=job.input.images, outputs=outputs,
        )  # fmt: skip
