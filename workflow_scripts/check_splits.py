"""Rule check_splits: numbers of images and groups, refused where they are too few to calibrate."""

from conffusion.data.splits import read_splits
from conffusion.store import write_json
from conffusion.workflow.checks import check_dealt
from conffusion.workflow.job import run_job

with run_job(snakemake) as job:  # noqa: F821
    counts = check_dealt(read_splits(job.input.splits), job.settings["calibration"])
    sizes = {split: {"images": n_images, "groups": n_groups} for split, (n_images, n_groups) in counts.items()}
    write_json(job.output.sizes, sizes)
