"""Full states of a training job, from which it goes on after an end that nobody planned."""

import hashlib
import logging
import pickle
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from conffusion.errors import StoreError
from conffusion.store.files import atomic_path, read_json, write_json

LOGGER = logging.getLogger(__name__)
N_KEPT = 2  # states on disk: the last, and the one before it


class StateFolder:
    """The states of one job, which stand outside its declared outputs; a state without a matching manifest is no state.

    The folder holds step-0000400.pt (tensors and plain values, read weights-only) and step-0000400.json (its SHA-256,
    the digest of the job, sizes of the companions), written in this order, each under a temporary name first.

    Args:
        folder: A folder of this job's own.
        digest: Of everything that the job depends on; states of another digest are removed.
        minutes: Between two states.
        clock: Source of the time in seconds; replaceable for tests.

    Attributes:
        companions: Folder of files that belong to a state, such as checkpoints that competed already.
    """

    def __init__(
        self, folder: str | Path, digest: str, minutes: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._digest, self._seconds, self._clock = Path(folder), digest, 60 * minutes, clock
        self._last = clock()
        self.companions = self._folder / "files"

    def latest(self, *, tidy: bool = True) -> dict[str, Any] | None:
        """Content of the newest state that is whole and this job's, or None; others are passed over with a warning.

        Args:
            tidy: Whether to remove what a killed job left half-written and, without a usable state, everything.
        """
        content = None
        for manifest in self._manifests():
            try:
                content = self._read(manifest)
            except StoreError as error:
                LOGGER.warning("%s", error)
                continue
            LOGGER.info("going on from %s", manifest.with_suffix(".pt"))
            break
        if tidy and content is None:
            self.clear()
        elif tidy:
            for leftover in self._folder.rglob(".*.tmp"):
                leftover.unlink(missing_ok=True)
        return content

    def is_due(self) -> bool:
        """Whether the last state is old enough for another."""
        return self._clock() - self._last >= self._seconds

    def save(self, step: int, content: Mapping[str, Any]) -> None:
        """Write a state: nested dicts and lists of tensors, numbers and strings.

        Raises:
            OSError: If there is no room; earlier states stay.
        """
        start = self._clock()
        path = self._folder / f"step-{step:07d}.pt"
        path.with_suffix(".json").unlink(missing_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            hashed = _Hashed(file)
            torch.save(dict(content), cast(IO[bytes], hashed))
        sizes = {file.name: file.stat().st_size for file in self.companions.glob("*") if not file.name.startswith(".")}
        record = {"digest": self._digest, "step": step, "sha256": hashed.hexdigest(), "companions": sizes}
        write_json(path.with_suffix(".json"), record)
        for old in self._manifests()[N_KEPT:]:
            _remove(old)
        self._last = self._clock()
        LOGGER.info("state after step %d saved in %.1f s", step, self._last - start)

    def clear(self) -> None:
        """Remove all states and companions, as a job does that has ended well."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _manifests(self) -> list[Path]:
        """Manifests, the newest first."""
        return sorted(self._folder.glob("step-*.json"), reverse=True)

    def _read(self, manifest: Path) -> dict[str, Any]:
        path, record = manifest.with_suffix(".pt"), read_json(manifest)
        if not isinstance(record, dict) or record.get("digest") != self._digest:
            raise StoreError(f"{path}: belongs to other settings, inputs or code; it is ignored")
        wrong = [
            name
            for name, size in record["companions"].items()
            if not (self.companions / name).is_file() or (self.companions / name).stat().st_size != size
        ]
        if wrong:
            raise StoreError(f"{self.companions / wrong[0]}: is missing or truncated; the state {path} is ignored")
        if not path.is_file() or _sha256(path) != record["sha256"]:
            raise StoreError(f"{path}: is missing, truncated or altered; it is ignored")
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError) as error:
            raise StoreError(f"{path}: cannot be read weights-only ({error}); it is ignored") from error
        return content


class _Hashed:
    """A file for writing that takes the SHA-256 of what passes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(manifest: Path) -> None:
    """The manifest first, so that what is left is no state."""
    manifest.unlink(missing_ok=True)
    manifest.with_suffix(".pt").unlink(missing_ok=True)
