"""Result files: atomic writes, sealed zarr stores with manifests."""

from conffusion.store.files import atomic_path, link_or_copy, read_json, remove_leftovers, write_json, write_text
from conffusion.store.manifest import manifest_path, verify_manifest
from conffusion.store.zarr_store import SealedStore, open_store, read_array, write_store

__all__ = [
    "SealedStore",
    "atomic_path",
    "link_or_copy",
    "manifest_path",
    "open_store",
    "read_array",
    "read_json",
    "remove_leftovers",
    "verify_manifest",
    "write_json",
    "write_store",
    "write_text",
]
