"""Manifests: what a sealed store must contain, file by file, so that a truncated one is never taken for complete."""

import hashlib
from pathlib import Path
from typing import Any

from conffusion.errors import StoreError
from conffusion.store.files import read_json, write_json

FOREIGN_FILES = frozenset({".snakemake_timestamp"})


def manifest_path(store: str | Path) -> Path:
    """Where the manifest of a store stands: `images/test.zarr` has `images/test.json`."""
    return Path(store).with_suffix(".json")


def write_manifest(store: str | Path, attributes: dict[str, Any]) -> None:
    """Seal a finished store: record size and SHA-256 of every file, and `attributes`."""
    store = Path(store)
    content = {"store": store.name, "attributes": attributes, "files": _checksums(store)}
    write_json(manifest_path(store), content)


def verify_manifest(store: str | Path) -> dict[str, Any]:
    """Check a store against its manifest and return the manifest's attributes.

    Raises:
        StoreError: If the manifest or a file is missing, truncated or altered; names the first such file.
    """
    store = Path(store)
    manifest = read_json(manifest_path(store))
    try:
        files, attributes = dict(manifest["files"]), dict(manifest["attributes"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{manifest_path(store)}: is not a manifest; delete it and rerun the rule") from error
    found = _checksums(store)
    for name, expected in files.items():
        if found.get(name) != expected:
            state = "is missing" if name not in found else "is truncated or altered"
            raise StoreError(f"{store / name}: {state} (by {manifest_path(store)}); delete both and rerun the rule")
    return attributes


def _checksums(store: Path) -> dict[str, str]:
    files = (path for path in sorted(store.rglob("*")) if path.is_file() and path.name not in FOREIGN_FILES)
    return {path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
