"""The argument MODEL: a package, or a method's folder of a run."""

from pathlib import Path
from typing import TYPE_CHECKING

from conffusion.errors import PackageError

if TYPE_CHECKING:
    from conffusion.inference.package import Package

MODEL = "a package (NAME.conffusion), or a method's folder of a run: results/<run>/<task>/<method>[/<protocol>]"


def open_package(model: str) -> "Package":
    """The package in a file, or made of a method of a run.

    Raises:
        PackageError: If it is neither, or unusable.
    """
    from conffusion.inference.from_run import package_run
    from conffusion.inference.model_file import read_package

    return package_run(*place_in_run(model)) if Path(model).is_dir() else read_package(model)


def place_in_run(model: str) -> tuple[Path, str, str, str]:
    """Run, task, method and protocol of a folder of results."""
    from conffusion.core.layout import RunLayout
    from conffusion.methods.protocols import PROTOCOLS

    folder = Path(model)
    protocol = folder.name if folder.name in PROTOCOLS else "guaranteed"
    method = folder.parent if folder.name in PROTOCOLS else folder
    run = method.parents[1] if len(method.parts) > 2 else None
    if run is None or not RunLayout(run).config.is_file():
        raise PackageError(f"{model}: is no method of a run; give results/<run>/<task>/<method>[/<protocol>]")
    return run, method.parent.name, method.name, protocol
