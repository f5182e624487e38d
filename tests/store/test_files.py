"""Atomic files: complete or absent, whatever interrupts the writer."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from conffusion.errors import StoreError
from conffusion.store import atomic_path, link_or_copy, read_json, remove_leftovers, write_json, write_text


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "down" / "a.txt"
    with atomic_path(final) as temporary:
        temporary.write_text("half")
        assert not final.exists()
        assert temporary.parent == final.parent
        temporary.write_text("whole")
    assert final.read_text() == "whole"
    assert [path.name for path in final.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_interrupted_block_leaves_what_was_there(kind: str, error: type[BaseException], tmp_path: Path) -> None:
    final = tmp_path / "a"
    for older in (None, "older"):
        if older:
            write_text(final, older)
        with pytest.raises(error), atomic_path(final) as temporary:
            if kind == "folder":
                temporary.mkdir()
                (temporary / "part").write_text("half")
            else:
                temporary.write_text("half")
            raise error
        assert [path.name for path in tmp_path.iterdir()] == (["a"] if older else [])
    assert final.read_text() == "older"


def test_folder_replaces_a_folder(tmp_path: Path) -> None:
    final = tmp_path / "store"
    for generation in ("first", "second"):
        with atomic_path(final) as temporary:
            temporary.mkdir()
            (temporary / generation).write_text(generation)
    assert [path.name for path in final.iterdir()] == ["second"]


def test_content_is_on_the_disk_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not leave a name without its content, or lose a name that was reported as written."""
    events: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        (path,) = (path for path in [tmp_path, *tmp_path.rglob("*")] if path.stat().st_ino == inode)
        events.append(("flushed", path.relative_to(tmp_path).as_posix()))
        fsync(descriptor)

    def noting_replace(source: Path, target: Path) -> None:
        events.append(("renamed", Path(target).relative_to(tmp_path).as_posix()))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("content")
    assert events == [("flushed", temporary.name), ("renamed", "a.txt"), ("flushed", ".")]

    events.clear()
    with atomic_path(tmp_path / "store") as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "deep" / "part").write_text("content")
    before, after = events[: events.index(("renamed", "store"))], events[events.index(("renamed", "store")) + 1 :]
    assert {name for _, name in before} == {f"{temporary.name}{part}" for part in ("", "/deep", "/deep/part")}
    assert after == [("flushed", ".")]


def test_remains_of_an_earlier_attempt_are_not_mixed_in(tmp_path: Path) -> None:
    final = tmp_path / "store"
    with atomic_path(final) as temporary:
        pass_name = temporary
        temporary.mkdir()
    pass_name.mkdir()  # what a killed process with the same number would have left
    (pass_name / "stale").write_text("stale")
    with atomic_path(final) as temporary:
        assert temporary == pass_name and not temporary.exists()
        temporary.mkdir()
        (temporary / "fresh").write_text("fresh")
    assert [path.name for path in final.iterdir()] == ["fresh"]


def test_killed_writer_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import sys, time
        from conffusion.store import atomic_path
        with atomic_path({str(tmp_path / "big.bin")!r}) as temporary, temporary.open("wb") as file:
            file.write(b"x" * 1000)
            file.flush()
            print("writing", flush=True)
            time.sleep(60)
        """
    )
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    assert writer.wait(timeout=20) == -signal.SIGKILL
    writer.stdout.close()
    assert visible(tmp_path) == []


def test_reader_never_sees_a_half_written_file(tmp_path: Path) -> None:
    """While another process rewrites a JSON file, every read is a complete generation."""
    path = tmp_path / "a.json"
    write_json(path, [0] * 5000)
    script = f"from conffusion.store import write_json\nfor k in range(60): write_json({str(path)!r}, [k] * 5000)"
    writer = subprocess.Popen([sys.executable, "-c", script])
    while writer.poll() is None:
        content = read_json(path)
        assert len(content) == 5000 and len(set(content)) == 1
        time.sleep(0.001)
    assert writer.returncode == 0
    assert read_json(path) == [59] * 5000


def test_json_round_trip_in_any_language(tmp_path: Path) -> None:
    content = {"image": "größe/画像 01", "values": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert json.loads((tmp_path / "a.json").read_bytes()) == content


def test_not_a_number_is_not_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"risk": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", '{"a": 1', "\x00\x01"])
def test_missing_or_damaged_json_is_named_with_the_remedy(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StoreError, match=r"calibration.json: cannot be read as JSON.*delete it and rerun"):
        read_json(path)


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "curves"
    (tmp_path / ".curves~elsewhere~12.tmp").mkdir()
    (tmp_path / ".curves~elsewhere~12.tmp" / "part").touch()
    (tmp_path / ".curves~elsewhere~7.tmp").touch()
    kept = [path, tmp_path / ".other~elsewhere~7.tmp", tmp_path / "curves~elsewhere~7.tmp"]
    for file in kept:
        file.touch()
    remove_leftovers(path, sole_writer=True)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_second_name_of_the_file_that_stands_there_leaves_nothing_behind(tmp_path: Path) -> None:
    source, target = tmp_path / "step-4", tmp_path / "model"
    source.write_text("weights")
    for _ in range(2):
        with atomic_path(target) as temporary:
            link_or_copy(source, temporary)
    assert sorted(tmp_path.iterdir()) == [target, source]
    assert target.samefile(source)
