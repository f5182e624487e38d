"""Stores in an S3 bucket: objects below a prefix of their own, which only the manifest makes known.

A bucket knows no rename, so every attempt writes below a fresh prefix. The journal, a small hidden file beside the
manifest, names the prefixes of all attempts, so that the next one that succeeds can remove those before it.
"""

import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.abc.store import Store
from zarr.storage import ObjectStore

from conffusion.errors import StoreError
from conffusion.store.backends import check_complete
from conffusion.store.files import write_text

if TYPE_CHECKING:
    from obstore.store import S3Store


class S3Backend:
    """The objects below `s3://bucket/prefix`; `journal` is needed to write them."""

    def __init__(self, url: str, journal: Path | None = None) -> None:
        self._url, self._journal = url, journal

    @property
    def label(self) -> str:
        """The URL."""
        return self._url

    def translate_errors(self) -> AbstractContextManager[None]:
        """Turns what the bucket says into StoreErrors."""
        return translate_bucket_errors(self._url)

    def start(self) -> Store:
        """The fresh prefix, noted in the journal before anything is below it."""
        if self._journal is not None:
            write_text(self._journal, "".join(f"{url}\n" for url in [*self._noted(), self._url]))
        return ObjectStore(_connect(self._url))

    def commit(self, checksums: Mapping[str, str]) -> Mapping[str, str]:
        """Make sure that all objects have arrived; returns their ETags."""
        found = self._etags()
        check_complete(self._url, checksums, set(found))
        return found

    def discard(self) -> None:
        """Remove the objects below the prefix."""
        with suppress(StoreError):
            _remove(self._url)

    def retire(self) -> None:
        """Remove the objects of attempts noted before this one; one that cannot be removed stays in the journal."""
        if self._journal is None:
            return
        noted = self._noted()
        own = noted.index(self._url) if self._url in noted else 0
        kept = []
        for url in noted[:own]:
            try:
                _remove(url)
            except StoreError:
                kept.append(url)
        write_text(self._journal, "".join(f"{url}\n" for url in [*kept, *noted[own:]]))

    def reader(self) -> Store:
        """The objects, to be read."""
        return ObjectStore(_connect(self._url), read_only=True)

    def altered(self, checksums: Mapping[str, str], marks: Mapping[str, str]) -> str | None:
        """Compares ETags, which one request lists for 1000 objects; reads an object only where its ETag is another."""
        with translate_bucket_errors(self._url, "read"):
            found = self._etags()
            for name, expected in checksums.items():
                if name not in found:
                    return f"{self._url}/{name}: is missing"
                if found[name] != marks.get(name) and self._sha256(name) != expected:
                    return f"{self._url}/{name}: is truncated or altered"
        return None

    def _etags(self) -> dict[str, str]:
        import obstore

        batches = obstore.list(_connect(self._url))
        return {entry["path"]: str(entry["e_tag"]) for batch in batches for entry in batch}

    def _sha256(self, name: str) -> str:
        import obstore

        digest = hashlib.sha256()
        for piece in obstore.get(_connect(self._url), name).stream():
            digest.update(piece)
        return digest.hexdigest()

    def _noted(self) -> list[str]:
        if self._journal is None or not self._journal.exists():
            return []
        return self._journal.read_text(encoding="utf-8").split()


backend = S3Backend  # of a store that exists, as `conffusion.store.backends` calls it


def new_backend(url: str, manifest: Path) -> S3Backend:
    """A fresh prefix below `url` for the store of a manifest, named after the manifest's path."""
    parts = (manifest if not manifest.is_absolute() else Path(manifest.name)).with_suffix("").parts
    name = "/".join(part for part in parts if part not in ("..", "."))
    journal = manifest.with_name(f".{manifest.stem}.attempts")
    return S3Backend(f"{url.rstrip('/')}/{name}.{uuid.uuid4().hex}.zarr", journal)


@contextmanager
def translate_bucket_errors(url: str, verb: str = "written") -> Iterator[None]:
    """Turn errors of the bucket into a StoreError with the first line of what it said."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, *read_errors())):
            raise
        raise StoreError(
            f"{url}: cannot be {verb} ({str(error).splitlines()[0]}); check the bucket's name, AWS_ENDPOINT_URL, "
            "AWS_REGION and the credentials (docs/s3.md)"
        ) from error


def read_errors() -> tuple[type[Exception], ...]:
    """What reading from a bucket may raise; none where the extra s3 is not installed."""
    try:
        from obstore.exceptions import BaseError
    except ImportError:
        return ()
    return (BaseError,)


def _connect(url: str) -> "S3Store":
    """The objects below a URL; endpoint, region and credentials come from the usual AWS_ variables."""
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise StoreError(f"{url}: buckets need the extra s3: run pip install 'conffusion[s3]'") from error
    options: Any = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    if endpoint.startswith("http://"):  # an address that was given without encryption on purpose
        options = {"allow_http": True}
    return S3Store.from_url(url, client_options=options)


def _remove(url: str) -> None:
    import obstore

    with translate_bucket_errors(url, "removed"):
        store = _connect(url)
        for batch in obstore.list(store):
            obstore.delete(store, [entry["path"] for entry in batch])
