"""Manifests: what a sealed store must contain, file by file, so that a truncated one is never taken for complete."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conffusion.errors import StoreError
from conffusion.store.backends import Backend, backend_for
from conffusion.store.files import read_json, write_json


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    Attributes:
        backend: Where the files are.
        attributes: What the writer recorded.
        files: Name to SHA-256 of every file.
        marks: Name to the mark that the backend gave it (a bucket's ETag), where it gives any.
    """

    backend: Backend
    attributes: dict[str, Any]
    files: dict[str, str]
    marks: dict[str, str]


def manifest_path(store: str | Path) -> Path:
    """Where the manifest of a store stands: `images/test.zarr` has `images/test.json`."""
    return Path(store).with_suffix(".json")


def write_manifest(
    store: str | Path,
    backend: Backend,
    attributes: Mapping[str, Any],
    files: Mapping[str, str],
    marks: Mapping[str, str],
) -> None:
    """Seal a finished store: record where it is, the SHA-256 of every file, and `attributes`."""
    content = {"store": backend.label, "attributes": dict(attributes), "files": dict(files)}
    write_json(manifest_path(store), {**content, "marks": dict(marks)} if marks else content)


def read_manifest(store: str | Path) -> Manifest:
    """The manifest of a store, given by its own or its manifest's path; the files are not looked at.

    Raises:
        StoreError: If it is missing or damaged.
    """
    path = manifest_path(store)
    if not path.exists():
        raise StoreError(
            f"{path.with_suffix('.zarr')}: no such store: {path.name} is missing; run the rule that makes it"
        )
    content = read_json(path)
    try:
        return Manifest(
            backend_for(store, str(content["store"])),
            dict(content["attributes"]),
            {str(name): str(checksum) for name, checksum in dict(content["files"]).items()},
            dict(content.get("marks", {})),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: is not a manifest; delete it and rerun the rule") from error


def verify_manifest(store: str | Path) -> Manifest:
    """The manifest of a store whose files are all there and unaltered.

    Raises:
        StoreError: If the manifest or a file is missing, truncated or altered; names the first such file.
    """
    manifest = read_manifest(store)
    if problem := manifest.backend.altered(manifest.files, manifest.marks):
        raise StoreError(f"{problem} (by {manifest_path(store)}); delete both and rerun the rule that makes it")
    return manifest
