"""Configurations for the tests of the plan and of its checks."""

import copy
from pathlib import Path
from typing import Any

from conffusion.config import Config, merge, parse_config, read_yaml
from conffusion.pipeline.plan import Plan

ROOT = Path(__file__).parents[2]
DEFAULT = read_yaml(ROOT / "config.yaml")
TASK = "super_resolution"


def config(**overlay: Any) -> Config:
    return parse_config(merge(DEFAULT, overlay))


def plan(**overlay: Any) -> Plan:
    return Plan(config(**overlay))


def without(section: str, name: str) -> dict[str, Any]:
    values = copy.deepcopy(DEFAULT)
    if isinstance(values[section], list):
        values[section].remove(name)
    else:
        del values[section][name]
    return values
