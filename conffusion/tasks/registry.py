"""The tasks that the configuration can name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from conffusion.data.named import build_named
from conffusion.tasks.denoising import denoising
from conffusion.tasks.inpainting import inpainting
from conffusion.tasks.super_resolution import super_resolution
from conffusion.tasks.task import Task

TASKS: Mapping[str, Callable[..., Task]] = MappingProxyType(
    {"super_resolution": super_resolution, "inpainting": inpainting, "denoising": denoising}
)


def build_task(name: str, **settings: Any) -> Task:
    """Task called `name`.

    Args:
        name: A key of `TASKS`.
        settings: Arguments of its function: `factor`, `hole` or `sigma`; each has a default.
    Raises:
        ConfigError: If the name or a setting is unknown or out of range.
    """
    return build_named(TASKS, name, settings, "task")
