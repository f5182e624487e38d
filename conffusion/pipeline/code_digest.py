"""Digest of the numerical code behind each stage, so that an edit of it reruns what depends on it."""

import ast
import hashlib
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from conffusion.store.files import read_json, write_json

LOGGER = logging.getLogger(__name__)
PACKAGE = Path(__file__).resolve().parents[1]

_BASE = ("core/arrays.py", "core/randomness.py", "store/zarr_store.py", "store/writer.py")
_NETWORKS = (
    "core/device.py",
    "models/unet.py",
    "models/unet_blocks.py",
    "models/unet_spec.py",
    "models/unet_config.py",
    "models/checkpoint.py",
    "models/encoders.py",
    "models/encoder_unet.py",
    "models/networks.py",
    "models/schedules.py",
    "models/denoiser.py",
)
_PREDICTORS = (
    *_NETWORKS,
    "methods/quirks.py",
    "methods/models.py",
    "methods/predictor.py",
    "tasks",
)
_PLAIN_CALIBRATION = (  # without the fit of families, which concerns no checkpoint
    "calibration/betting.py",
    "calibration/pixels.py",
    "calibration/procedure.py",
    "calibration/rules.py",
    "calibration/scaling.py",
    "calibration/search.py",
    "calibration/ucb.py",
    "calibration/units.py",
    "calibration/variance.py",
    "methods/protocols.py",
    "metrics.py",
    "bounds.py",
)
_CALIBRATION = ("calibration", "methods/protocols.py", "metrics.py", "bounds.py")

# What each stage's numbers depend on: files and folders of the package.
STAGE_CODE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "split_images": ("core/randomness.py", "data", "demo", "images", "pipeline/stages/images.py"),
        "prepare_images": (*_BASE, "data", "demo", "images", "tasks", "pipeline/stages/images.py"),
        "import_prior": (
            *_BASE,
            *_NETWORKS,
            "models/official.py",
            "models/rule_weights.py",
            "pipeline/stages/importing.py",
            "training/priors.py",
        ),
        "train_prior": (
            *_BASE,
            *_NETWORKS,
            "data",
            "demo",
            "images",
            "tasks",
            "training/loop.py",
            "training/parallel.py",
            "training/pretrain.py",
            "training/priors.py",
            "training/state.py",
        ),
        "sample_variants": (
            *_BASE,
            *_NETWORKS,
            "tasks",
            "bounds.py",
            "sampling",
            "pipeline/stages/sampling.py",
            "training/priors.py",
        ),
        "measure_solvers": (
            *_BASE,
            *_CALIBRATION,
            "core/device.py",
            "sampling/adaptive_stopping.py",
            "evaluation/scores.py",
            "pipeline/stages/solver_study.py",
        ),
        "extract_bounds": (*_BASE, "bounds.py", "methods/protocols.py", "pipeline/stages/bounds.py"),
        "finetune_method": (
            *_BASE,
            *_PREDICTORS,
            *_PLAIN_CALIBRATION,
            "losses.py",
            "methods/competition.py",
            "methods/one_pass.py",
            "training/loop.py",
            "training/finetune.py",
            "training/objectives.py",
            "training/parallel.py",
            "training/state.py",
            "pipeline/stages/finetuning.py",
            "pipeline/stages/fitting.py",
            "pipeline/stages/prediction.py",
            "methods/registry.py",
            "training/priors.py",
        ),
        "predict_bounds": (
            *_BASE,
            *_PREDICTORS,
            "bounds.py",
            "methods/one_pass.py",
            "pipeline/stages/bounds.py",
            "pipeline/stages/prediction.py",
        ),
        "trace_candidates": (
            *_BASE,
            *_PREDICTORS,
            "calibration",
            "methods/one_pass.py",
            "pipeline/stages/prediction.py",
            "pipeline/stages/evaluation.py",
        ),
        "calibrate_method": (*_BASE, *_CALIBRATION, "pipeline/stages/calibration.py"),
        "evaluate_method": (
            *_BASE,
            *_CALIBRATION,
            "evaluation/diagnostics.py",
            "evaluation/drift.py",
            "pipeline/stages/calibration.py",
            "pipeline/stages/evaluation.py",
        ),
        "assess_validity": (*_BASE, *_CALIBRATION, "pipeline/stages/calibration.py", "pipeline/stages/validity.py"),
        "report": ("report",),
    }
)


def code_versions(record: str | Path, *, keep: bool) -> dict[str, str]:
    """Digest of every stage's code, as rules take it for a parameter.

    Args:
        record: Digests that the results were made with, as `write_code_versions` left them.
        keep: Whether results of older code are kept: recorded digests then stand in for today's, with a warning.
    """
    current = {stage: stage_digest(stage) for stage in STAGE_CODE}
    if not keep or not Path(record).is_file():
        return current
    older = {stage: digest for stage, digest in read_json(record).items() if stage in current}
    changed = [stage for stage, digest in older.items() if digest != current[stage]]
    if changed:
        LOGGER.warning("results of older code are kept (ignore_code_changes) for: %s", ", ".join(changed))
    return {**current, **older}


def write_code_versions(record: str | Path, versions: Mapping[str, str]) -> None:
    """Record the digests that a run starts with."""
    write_json(record, dict(versions))


def stage_digest(stage: str) -> str:
    """Digest of the syntax trees behind a stage; docstrings, comments and layout do not count."""
    digest = hashlib.sha256()
    for entry in STAGE_CODE[stage]:
        path = PACKAGE / entry
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(PACKAGE).as_posix().encode())
            digest.update(code_digest(file).encode())
    return digest.hexdigest()[:16]


@cache
def code_digest(file: Path) -> str:
    """Digest of one module's syntax tree without docstrings."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body = node.body[1:]
