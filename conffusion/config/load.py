"""Reading, merging and checking configurations."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from conffusion.config.schema import Config
from conffusion.errors import ConfigError

# Keys by their former place; a configuration that still has one is told the new name.
RENAMED_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "keep_results_of_older_code": "ignore_code_changes",
        "finetuning.mirror": "finetuning.horizontal_flip",
        "finetuning.save_minutes": "finetuning.checkpoint_every_minutes",
        "sampling.settling": "sampling.adaptive_stopping",
        "sampling.storage": "sampling.dtype",
        "validity.n": "validity.calibration_sizes",
        "report.shown": "report.example_pattern",
    }
)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Mapping stored in a YAML file.

    Raises:
        ConfigError: If the file is missing, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); check the path, and that you are in the project's folder"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a mapping of configuration keys")
    return content


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `overlay` laid over it, mappings merged recursively; neither is changed."""
    merged = dict(base)
    for key, value in overlay.items():
        both_mappings = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both_mappings else value
    return merged


def parse_config(values: Mapping[str, Any], *, source: str = "configuration") -> Config:
    """Typed configuration from a merged mapping.

    Args:
        values: All keys, as in `config.yaml` with overlays laid over it.
        source: Where the values come from, named in errors.
    Raises:
        ConfigError: One line for every unknown, missing, mistyped or out-of-range key.
    """
    tasks = values.get("tasks")
    if isinstance(tasks, Mapping):  # `inpainting: null` in an overlay leaves a task out
        values = {**values, "tasks": {name: task for name, task in tasks.items() if task is not None}}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [_describe(problem) for problem in error.errors()]
        raise ConfigError(f"{source}: " + "; ".join(lines)) from None


def load_config(*paths: str | Path) -> Config:
    """Configuration from files, the weakest first."""
    values: dict[str, Any] = {}
    for path in paths:
        values = merge(values, read_yaml(path))
    return parse_config(values, source=", ".join(str(path) for path in paths))


def _describe(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden" and key in RENAMED_KEYS:
        return f"{key}: is now called {RENAMED_KEYS[key]}; rename it"
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key{_hint(problem['loc'])}"
    if problem["type"] == "missing":
        return f"{key}: is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key} = {problem['input']!r}: {message}" if key else message


def _hint(location: tuple[str | int, ...]) -> str:
    known = _known_keys(Config, location[:-1])
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (known keys here: {', '.join(sorted(known))})" if known else ""


def _known_keys(model: Any, location: tuple[str | int, ...]) -> list[str]:
    """Field names of the section at `location`, following mappings of sections."""
    for part in location:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(str(part))
            model = field.annotation if field else None
        else:
            model = next((a for a in reversed(get_args(model)) if a is not type(None)), None)
        models = [a for a in get_args(model) if isinstance(a, type) and issubclass(a, BaseModel)]
        if type(None) in get_args(model) and models:
            model = models[0]
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
