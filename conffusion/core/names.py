"""Resolve a name from the configuration through one visible mapping, with a hint when it is misspelt."""

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from conffusion.errors import ConfigError

T = TypeVar("T")


def nearest_hint(name: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?` or, when nothing is close, the list of known names."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known)) or 'none'}"


def lookup(mapping: Mapping[str, T], name: str, what: str) -> T:
    """Entry of `mapping` called `name`.

    Raises:
        ConfigError: If there is none; the message names the nearest one.
    """
    if name not in mapping:
        raise ConfigError(f"{what} {name!r} is unknown{nearest_hint(name, mapping)}")
    return mapping[name]


def build_named(mapping: Mapping[str, Callable[..., T]], name: str, settings: Mapping[str, Any], what: str) -> T:
    """Call the builder that `name` stands for with `settings` as keyword arguments.

    Args:
        mapping: Name to class or function.
        name: The name to resolve.
        settings: Keyword arguments of the builder.
        what: What is being built, for messages: "task", "dataset".
    Raises:
        ConfigError: If the name is unknown, or a setting is unknown or missing.
    """
    builder = lookup(mapping, name, what)
    parameters = inspect.signature(builder).parameters
    for key in settings:
        if key not in parameters:
            raise ConfigError(f"{what} {name!r} has no setting {key!r}{nearest_hint(key, parameters)}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in settings:
            raise ConfigError(f"{what} {name!r} needs the setting {key!r}")
    return builder(**settings)
