"""Full states on disk: only whole ones of the same job count, the last two are kept, and nothing in them can run."""

import hashlib
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from conffusion.errors import StoreError
from conffusion.training.state import StateFolder


def content(step: int) -> dict[str, Any]:
    return {"weights": {"a": torch.full((3, 2), float(step))}, "score": float("inf"), "steps": [[step, {"x": None}]]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "job"


def states(folder: Path, digest: str = "mine", minutes: float = 0.0) -> StateFolder:
    return StateFolder(folder, digest, minutes)


def test_newest_state_comes_back_as_it_was(folder: Path) -> None:
    for step in (20, 40, 60):
        states(folder).save(step, content(step))
    assert sorted(path.name for path in folder.iterdir()) == [
        "step-0000040.json", "step-0000040.pt", "step-0000060.json", "step-0000060.pt",
    ]  # fmt: skip
    found = states(folder).latest()
    assert found is not None and torch.equal(found["weights"].pop("a"), content(60)["weights"].pop("a"))
    assert (found["score"], found["steps"]) == (float("inf"), [[60, {"x": None}]])


def test_without_a_state_there_is_none(folder: Path) -> None:
    assert states(folder).latest() is None
    states(folder).clear()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "no manifest", "empty manifest", "companion"])
def test_damaged_state_is_passed_over_for_the_one_before(
    damage: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    states(folder).save(20, content(20))
    companions = states(folder).companions
    companions.mkdir()
    (companions / "step-40").write_bytes(b"weights")
    states(folder).save(40, content(40))
    newest, manifest = folder / "step-0000040.pt", folder / "step-0000040.json"
    data = newest.read_bytes()
    if damage == "truncated":
        newest.write_bytes(data[:-100])
    elif damage == "flipped":
        newest.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    elif damage == "missing":
        newest.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "empty manifest":
        manifest.write_text("")
    else:
        (companions / "step-40").write_bytes(b"weigh")
    found = states(folder).latest()
    assert found is not None and found["steps"] == content(20)["steps"]
    assert damage == "no manifest" or "ignored" in caplog.text or "cannot be read" in caplog.text


def test_states_of_another_job_are_removed_with_a_word(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    states(folder, "theirs").save(20, content(20))
    assert states(folder).latest(tidy=False) is None
    assert (folder / "step-0000020.pt").exists()
    assert states(folder).latest() is None
    assert "other settings, inputs or code" in caplog.text
    assert not folder.exists()


def test_what_a_killed_job_left_half_written_is_swept_away(folder: Path) -> None:
    states(folder).save(20, content(20))
    companions = states(folder).companions
    companions.mkdir()
    for leftover in (folder / ".step-0000040.pt.77.tmp", companions / ".step-40.77.tmp"):
        leftover.write_bytes(b"half")
    assert states(folder).latest() is not None
    assert not list(folder.rglob(".*"))


def test_states_are_due_some_minutes_after_the_last(folder: Path) -> None:
    now = 1000.0
    timed = StateFolder(folder, "mine", 10, clock=lambda: now)
    assert not timed.is_due()
    now += 599
    assert not timed.is_due()
    now += 1
    assert timed.is_due()
    timed.save(20, content(20))
    assert not timed.is_due()


def test_state_is_read_without_running_anything(folder: Path) -> None:
    """A file with a call in it, sealed like a state."""
    states(folder).save(20, content(20))
    marker = folder / "ran"

    class Call:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    path, manifest = folder / "step-0000020.pt", folder / "step-0000020.json"
    torch.save({"x": Call()}, path)
    record = json.loads(manifest.read_text())
    record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(record))
    assert states(folder).latest() is None
    assert not marker.exists()


def test_file_that_cannot_grow_keeps_the_states_before(folder: Path) -> None:
    states(folder).save(20, content(20))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(StoreError, match="File too large"):
            states(folder).save(40, content(40))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found = states(folder).latest()
    assert found is not None and found["steps"] == content(20)["steps"]
    assert sorted(path.name for path in folder.iterdir()) == ["step-0000020.json", "step-0000020.pt"]
