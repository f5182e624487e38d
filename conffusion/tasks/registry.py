"""The tasks that the configuration can name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from conffusion.core.names import build_named
from conffusion.tasks.custom import custom, pinned
from conffusion.tasks.denoising import denoising
from conffusion.tasks.inpainting import inpainting
from conffusion.tasks.super_resolution import super_resolution
from conffusion.tasks.task import Task

TASKS: Mapping[str, Callable[..., Task]] = MappingProxyType(
    {"super_resolution": super_resolution, "inpainting": inpainting, "denoising": denoising, "custom": custom}
)
_CODE_SETTINGS = ("function", "sha256")  # of `custom`: code of the user's


def build_task(name: str, **settings: Any) -> Task:
    """Task called `name`.

    Args:
        name: A key of `TASKS`.
        settings: Arguments of its function: `factor`, `hole`, `sigma` or `function`; each has a default.
    Raises:
        ConfigError: If the name or a setting is unknown or out of range.
    """
    return build_named(TASKS, name, settings, "task")


def pinned_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a task with a checksum of the file that they name, if they do: what results depend on.

    Raises:
        ConfigError: If the file cannot be read.
    """
    return pinned(settings) if name == "custom" else dict(settings)


def portable_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a task that may travel to other machines: those that name code are left out."""
    if name != "custom":
        return dict(settings)
    return {key: value for key, value in settings.items() if key not in _CODE_SETTINGS}
