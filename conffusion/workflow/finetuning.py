"""Translation of a rule's settings and inputs into a fine-tuning job; imports torch."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from conffusion.methods.registry import get_method
from conffusion.stages.fitting import FinetuningInputs, FinetuningJob


def finetuning_job(settings: Mapping[str, Any]) -> FinetuningJob:
    """The job that `Plan.settings("finetune_method", ...)` describes; other keys are ignored."""
    names = {field.name for field in fields(FinetuningJob)} - {"method"}
    return FinetuningJob(method=get_method(settings["method"]), **{name: settings[name] for name in names})


def finetuning_inputs(files: Any) -> FinetuningInputs:
    """Named inputs of the rules finetune_method and try_settings."""
    sampled_bounds = files.get("sampled_bounds")
    return FinetuningInputs(
        prior=Path(files.prior),
        splits=Path(files.splits),
        images={split: Path(files[split]) for split in ("finetune", "selection", "calibration") if files.get(split)},
        sampled_bounds=Path(sampled_bounds) if sampled_bounds else None,
    )
