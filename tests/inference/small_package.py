"""A package around a small untrained network, with evidence of made-up images."""

from typing import Any

import numpy as np
import torch

from conffusion.calibration import calibrate
from conffusion.evaluation.drift import given_features, interval_features
from conffusion.inference.evidence import Evidence
from conffusion.inference.package import CalibratedOn, Package, PackageRecord, SamplingRecord
from conffusion.methods.models import save_predictor
from conffusion.metrics import image_losses
from conffusion.models.checkpoint import save_checkpoint
from tests.methods.small_specs import SIDE, SPECS

DEGRADATION: dict[str, dict[str, Any]] = {
    "super_resolution": {"factor": 4},
    "inpainting": {"hole": 0.5},
    "denoising": {},
}
SAMPLING = SamplingRecord(
    solver="dpmpp_2m_sde", n_steps=2, n_variants=4, shared_start=False, dtype="uint8", quantile=0.05
)


def small_package(
    folder: Any, task: str = "super_resolution", method: str = "n_conffusion", kind: str = "sr3", n_images: int = 30
) -> Package:
    """Weights are random, so that the intervals are wide and wrong, but all that is computed is real."""
    path = folder / f"{task}-{method}-{kind}.safetensors"
    torch.manual_seed(3)
    spec = SPECS[kind]
    if method == "dm_sb":
        save_checkpoint(
            path, spec.architecture.build_prior().state_dict(), {"architecture": spec.architecture.record()}
        )
    else:
        save_predictor(path, spec.build(None), spec, {"step": 1})
    generator = np.random.default_rng(0)
    target = generator.random((n_images, 3, SIDE, SIDE))
    centre = target + 0.2 * generator.standard_normal(target.shape)
    lower, upper = np.clip(centre - 0.1, 0, 1), np.clip(centre + 0.1, 0, 1)
    calibration = calibrate(lower, upper, target, alpha=0.2, delta=0.2, scaling="additive")
    record = PackageRecord(
        version="0.1.0", name=f"small {task} {method}", task=task, degradation=DEGRADATION[task], method=method,
        protocol="guaranteed", sorts_bounds=True, seed=5, image_size=SIDE, overlap=SIDE // 4, bfloat16=False,
        sampling=SAMPLING if method == "dm_sb" else None, calibration=calibration.to_dict(),
        family=calibration.family.to_dict(), provenance={"run": "none"},
        calibrated_on=CalibratedOn(description="noise", smallest=(SIDE, SIDE), largest=(SIDE, SIDE)),
    )  # fmt: skip
    losses, _ = image_losses(*calibration.apply(lower, upper), target)
    features = np.hstack([interval_features(lower, upper), given_features(target)])
    return Package(record, path.read_bytes(), Evidence(losses, features, None))
