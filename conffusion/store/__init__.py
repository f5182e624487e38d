"""Result files: atomic writes, sealed zarr stores with manifests."""

from conffusion.store.files import atomic_path, link_or_copy, read_json, remove_leftovers, write_json, write_text
from conffusion.store.manifest import manifest_path, verify_manifest
from conffusion.store.writer import ArraySpec, StoreWriter, new_store, write_store
from conffusion.store.zarr_store import SealedStore, blocks, open_store, read_array

__all__ = [
    "ArraySpec",
    "SealedStore",
    "StoreWriter",
    "atomic_path",
    "blocks",
    "link_or_copy",
    "manifest_path",
    "new_store",
    "open_store",
    "read_array",
    "read_json",
    "remove_leftovers",
    "verify_manifest",
    "write_json",
    "write_store",
    "write_text",
]
