"""A degradation of the user: a Python function in a file that the configuration names."""

import hashlib
import importlib.util
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from conffusion.core.arrays import FloatArray
from conffusion.core.randomness import keyed_generator
from conffusion.errors import ConfigError
from conffusion.tasks.task import Photographs, Task

Corrupt: TypeAlias = Callable[[FloatArray, np.random.Generator], Any]
"""One clean image (C, H, W) float32 in [0, 1] and its generator to the corrupted image, of the same shape and range."""
_ROUNDING = 1e-4  # how far outside [0, 1] counts as rounding, which is clipped


def custom(*, function: str | None = None, sha256: str | None = None) -> Task:
    """The task of undoing what a function does; nothing is read or run before images are degraded.

    Args:
        function: `path/to/file.py:name`, relative to the working folder. It is called with one clean image, (C, H, W)
            float32 in [0, 1], and a `numpy.random.Generator` that is a pure function of (seed, task, image id), and
            returns the corrupted image, of the same shape and range. None: the task can restore images, but not corrupt
            any.
        sha256: Checksum of the file, if it must be this one; see `pinned`.
    Raises:
        ConfigError: If `function` does not look like that.
    """
    if function is not None:
        _place(function)
    return Task("custom", "Custom restoration", degrade=partial(corrupt, function=function, sha256=sha256))


def pinned(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the checksum of the function's file, so that what depends on them follows its edits.

    Raises:
        ConfigError: If the file cannot be read.
    """
    if settings.get("function") is None:
        return dict(settings)
    return {**settings, "sha256": _sha256(settings["function"])}


def corrupt(
    target: FloatArray,
    image_ids: Sequence[str],
    seed: int,
    photographs: Photographs | None,
    *,
    function: str | None,
    sha256: str | None,
) -> FloatArray:
    """Corrupted images by the user's function, one by one.

    Raises:
        ConfigError: If there is no function, its file has changed, or it fails: names file, line and image.
    """
    if function is None:
        raise ConfigError(
            "custom: there is no function that corrupts images (packages carry no code); give pairs of corrupted "
            "images and truths instead: --images and --targets"
        )
    current = _sha256(function)
    if sha256 is not None and sha256 != current:
        raise ConfigError(f"custom: {_place(function)[0]} was changed while it was in use; run the same command again")
    user_function = _load(function, current)
    corrupted = np.empty_like(target)
    for row, image_id in enumerate(image_ids):
        generator = keyed_generator(seed, "custom", image_id)
        try:
            found = user_function(target[row].copy(), generator)
        except Exception as error:
            raise ConfigError(
                f"custom: {function} failed on image {image_id!r}: {_described(function, error)}"
            ) from error
        corrupted[row] = _checked(found, target[row].shape, f"custom: {function} on image {image_id!r}")
    return corrupted


def _place(function: str) -> tuple[Path, str]:
    """File and name."""
    path, _, name = str(function).rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ConfigError(f"custom: function = {function!r} must be a Python file and a name in it, as blur.py:blur")
    return Path(path), name


def _sha256(function: str) -> str:
    path, _ = _place(function)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"custom: {path} cannot be read ({error.strerror}); check function = {function!r}") from error


@cache
def _load(function: str, sha256: str) -> Corrupt:
    """The function; its file is run once for each of its versions."""
    path, name = _place(function)
    spec = importlib.util.spec_from_file_location(f"conffusion_custom_{sha256[:16]}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"custom: {path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"custom: {path} cannot be imported: {_described(function, error)}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(f"custom: {path} has no function {name!r}")
    return found


def _described(function: str, error: Exception) -> str:
    """The error with the last line of the user's file that led to it."""
    path = _place(function)[0]
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: SyntaxError: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    where = f"{path}, line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}"


def _checked(found: Any, shape: tuple[int, ...], where: str) -> FloatArray:
    image = found if isinstance(found, np.ndarray) else np.asarray(None)
    if image.dtype.kind not in "fiub":
        raise ConfigError(f"{where}: returned {type(found).__name__}; it must return an array of numbers")
    if image.shape != shape:
        raise ConfigError(
            f"{where}: returned shape {image.shape}; the corrupted image must have {shape}, as the clean one"
        )
    if not np.isfinite(image).all():
        raise ConfigError(f"{where}: returned NaN or infinite values")
    if image.min() < -_ROUNDING or image.max() > 1 + _ROUNDING:
        raise ConfigError(
            f"{where}: returned values from {image.min():.4g} to {image.max():.4g}; they must lie in [0, 1]: end the "
            "function with np.clip(image, 0, 1)"
        )
    return image.astype(np.float32)
