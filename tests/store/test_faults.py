"""Real faults: full disks, read-only folders, killed writers, writers that outlived their node."""

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conffusion.errors import StoreError
from conffusion.store import ArraySpec, atomic_path, new_store, open_store, read_array, write_json, write_store
from conffusion.store.files import ABANDONED_AFTER_SECONDS, temporary_path

N_ROWS = 150  # three shards
SHAPE = (3, 64, 64)
IDS = [f"image-{k}" for k in range(N_ROWS)]
LAYOUT = {"values": ArraySpec(SHAPE, np.float32)}
ONE = {"values": np.ones((1, 2), np.float32)}


def row(k: int) -> np.ndarray:
    """Row k, which no compression makes small."""
    return np.random.default_rng(k).random((1, *SHAPE), dtype=np.float32)


def write(path: Path) -> None:
    """All rows, one at a time."""
    with new_store(path, LAYOUT, IDS, {}) as writer:
        for k in range(N_ROWS):
            writer.append({"values": row(k)})


def check_whole(path: Path) -> None:
    values = read_array(open_store(path)["values"])
    for k in range(N_ROWS):
        np.testing.assert_array_equal(values[k], row(k)[0])


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system in memory."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"file systems cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- disks that refuse


def test_full_disk_leaves_nothing_and_room_mends_it(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=4m") as disk:
        with pytest.raises(
            StoreError, match=r"a\.zarr: cannot be written \(No space left on device\); free some space"
        ):
            write(disk / "a.zarr")
        assert left_in(disk) == []
        with pytest.raises(StoreError, match="no such store"):
            open_store(disk / "a.zarr")
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        write(disk / "a.zarr")
        check_whole(disk / "a.zarr")


def test_full_disk_is_noticed_before_the_last_row(tmp_path: Path) -> None:
    """The writing thread's error reaches the caller that makes the rows, two shards later at most."""
    taken = 0
    with (
        mounted(tmp_path / "disk", "size=1m") as disk,
        pytest.raises(StoreError, match="No space left"),
        new_store(disk / "a.zarr", LAYOUT, IDS, {}) as writer,
    ):
        for taken in range(N_ROWS):
            writer.append({"values": row(taken)})
    assert taken < 2 * 64


def test_disk_that_is_full_at_any_file_leaves_nothing(tmp_path: Path) -> None:
    """Room for one file or folder more each time."""
    n_refused = 0
    for n_files in range(2, 40):
        with mounted(tmp_path / "disk", f"size=1m,nr_inodes={n_files}") as disk:
            try:
                write_store(disk / "a.zarr", ONE, ["x"], {})
            except StoreError as error:
                assert "No space left on device" in str(error)
                assert left_in(disk) == []
                n_refused += 1
                continue
            assert open_store(disk / "a.zarr").image_ids == ("x",)
            break
    assert n_refused > 5


def test_full_disk_at_the_manifest_leaves_no_store(tmp_path: Path) -> None:
    """Attributes that come last stand in the group and in the manifest; there is room for them once."""
    with mounted(tmp_path / "disk", "size=700k") as disk:
        with (
            pytest.raises(StoreError, match=r"a\.json: cannot be written \(No space left on device\)"),
            new_store(disk / "a.zarr", {"values": ArraySpec((2,), np.float32)}, ["x"], {}) as writer,
        ):
            writer.append(ONE)
            writer.attributes["note"] = "x" * 400_000
        assert left_in(disk) == []


def test_full_disk_keeps_the_older_file(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=64k") as disk:
        write_json(disk / "a.json", [1])
        with pytest.raises(StoreError, match=r"a\.json: cannot be written \(No space left on device\)"):
            write_json(disk / "a.json", list(range(50_000)))
        assert (disk / "a.json").read_text() == "[\n 1\n]\n"
        assert left_in(disk) == ["a.json"]


def test_read_only_file_system_is_named(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for folder in (disk, disk / "images"):
            with pytest.raises(
                StoreError, match=r"a\.\w+: cannot be written \(Read-only file system\); .*another|choose"
            ):
                write_store(folder / "a.zarr", ONE, ["x"], {})
            with pytest.raises(StoreError, match=r"b\.json: cannot be written \(Read-only file system\)"):
                write_json(folder / "b.json", [1])
        assert left_in(disk) == []


def test_lack_of_permission_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    script = f"""
        import os
        import numpy as np
        from conffusion.errors import StoreError
        from conffusion.store import write_json, write_store
        os.chdir({str(tmp_path)!r})  # the folders above may be closed as well
        if os.getuid() == 0:
            os.setuid(65534)
        for write in (
            lambda: write_store("closed/a.zarr", {{"values": np.ones((1, 2))}}, ["x"], {{}}),
            lambda: write_json("closed/a.json", [1]),
        ):
            try:
                write()
            except StoreError as error:
                print(error)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.count("cannot be written (Permission denied); permission is lacking") == 2


# ---- writers that die

WRITER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import numpy as np
    from conffusion.errors import StoreError
    from conffusion.store import new_store
    from tests.store.test_faults import IDS, LAYOUT, row

    def write(path, stop_at=None):
        with new_store(path, LAYOUT, IDS, {}) as writer:
            for k in range(len(IDS)):
                if k == stop_at:
                    print("waiting", flush=True)
                    sys.stdin.readline()
                writer.append({"values": row(k)})
    """
)


def start(code: str) -> "subprocess.Popen[str]":
    """A process that writes, up to its first line of output."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    return process


def end(process: "subprocess.Popen[str]") -> str:
    """Wait for a process; its further output."""
    output, _ = process.communicate(timeout=60)
    return output


@pytest.mark.parametrize("stop_at", [0, 100, N_ROWS - 1])
def test_killed_writer_is_refused_and_repeated(stop_at: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_store(path, ONE, ["older"], {})
    process = start(f"write({str(path)!r}, {stop_at})")
    process.kill()
    end(process)
    leftover = f".a.zarr~{socket.gethostname()}~{process.pid}.tmp"
    assert left_in(tmp_path) == [leftover]
    with pytest.raises(StoreError, match=r"a\.zarr: no such store: a\.json is missing; run the rule"):
        open_store(path)
    write(path)
    check_whole(path)
    assert left_in(tmp_path) == ["a.json", "a.zarr"]


def test_writer_killed_at_any_time_never_looks_complete(tmp_path: Path) -> None:
    """A process that writes the same store again and again, killed at odd moments, at its seal as well."""
    path = tmp_path / "a.zarr"
    complete = 0
    for attempt in range(6):
        process = start(f"print('waiting', flush=True)\nwhile True: write({str(path)!r})")
        time.sleep(0.05 + 0.1 * attempt)
        process.kill()
        end(process)
        try:
            open_store(path)
        except StoreError:
            continue
        check_whole(path)
        complete += 1
    assert complete < 6
    write(path)
    check_whole(path)
    assert left_in(tmp_path) == ["a.json", "a.zarr"]


def test_writer_that_outlived_its_node_fails_instead_of_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zombie = start(f"try: write({str(path)!r}, 100)\nexcept StoreError as error: print(error)")
    write(path)
    assert zombie.stdin is not None
    print(file=zombie.stdin, flush=True)
    assert "a.zarr: " in end(zombie)
    check_whole(path)
    assert left_in(tmp_path) == ["a.json", "a.zarr"]


def leftover(folder: Path, host: str, process: int, *, age: float = 0) -> Path:
    """What a writer of `a` left: a folder with a file in it."""
    path = folder / f".a~{host}~{process}.tmp"
    path.mkdir(parents=True)
    (path / "part").write_text("half")
    for name in (path / "part", path):
        os.utime(name, (time.time() - age,) * 2)
    return path


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_go_when_their_writer_is_surely_gone(tmp_path: Path) -> None:
    here = socket.gethostname()
    gone = [
        leftover(tmp_path, here, dead_process()),
        leftover(tmp_path, "node-7.cluster", 1, age=ABANDONED_AFTER_SECONDS + 60),
        leftover(tmp_path, here, os.getpid()),
    ]
    kept = [leftover(tmp_path, here, 1), leftover(tmp_path, "node-7.cluster", 2)]
    others = [tmp_path / f".a.b~{here}~{dead_process()}.tmp", tmp_path / f".b~{here}~{dead_process()}.tmp"]
    for other in others:
        other.write_text("another output's")
    with atomic_path(tmp_path / "a") as temporary:
        assert temporary == temporary_path(tmp_path / "a")
        temporary.write_text("whole")
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in [*kept, *others])


def test_output_of_a_job_has_one_writer_so_that_all_leftovers_go(tmp_path: Path) -> None:
    for host, process in ((socket.gethostname(), 1), ("node-7.cluster", 2)):
        leftover(tmp_path, host, process).rename(tmp_path / f".a.zarr~{host}~{process}.tmp")
        leftover(tmp_path, host, process).rename(tmp_path / f".a.json~{host}~{process}.tmp")
    write_store(tmp_path / "a.zarr", ONE, ["x"], {})
    assert left_in(tmp_path) == ["a.json", "a.zarr"]
