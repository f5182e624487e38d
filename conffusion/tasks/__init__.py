"""Restoration tasks: degradation, mask and evaluated pixels, as data."""

from conffusion.tasks.registry import TASKS, build_task, pinned_settings, portable_settings
from conffusion.tasks.task import Task

__all__ = ["TASKS", "Task", "build_task", "pinned_settings", "portable_settings"]
