"""Restoration tasks: degradation, mask and evaluated pixels, as data; the degraded images."""

from conffusion.tasks.degraded_images import DegradedImages
from conffusion.tasks.registry import TASKS, build_task, pinned_settings, portable_settings
from conffusion.tasks.task import Task

__all__ = ["TASKS", "DegradedImages", "Task", "build_task", "pinned_settings", "portable_settings"]
