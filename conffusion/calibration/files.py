"""A calibration as a run of the workflow keeps it: calibration.json, and family.json beside it."""

from dataclasses import replace
from pathlib import Path

from conffusion.calibration.families import Family
from conffusion.calibration.procedure import Calibration
from conffusion.store import read_json

FAMILY_FILE = "family.json"


def read_calibration(path: str | Path) -> Calibration:
    """The calibration in a run's `calibration.json`, to be applied to further bounds of the same method.

    Raises:
        StoreError: If the file, or the family.json beside it that its family needs, is missing or damaged.
    """
    record = read_json(path)
    names = ("lambda_hat", "risk", "risk_ucb", "alpha", "delta", "scaling", "ucb", "unit", "n_images")
    calibration = Calibration(**{name: record[name] for name in names}, n=record["n_bound"])
    beside = Path(path).with_name(FAMILY_FILE)
    if "chosen_among" not in record:
        return calibration
    return replace(calibration, shape=Family.from_dict(read_json(beside)).shape)
