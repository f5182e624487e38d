"""Typed configuration: schema, merging and validation."""

from conffusion.config.load import load_config, merge, parse_config, read_yaml
from conffusion.config.schema import Config

__all__ = ["Config", "load_config", "merge", "parse_config", "read_yaml"]
