"""Sealed stores: complete round trips; anything truncated, altered, missing or added is refused with its name."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec

from conffusion.errors import StoreError
from conffusion.store import manifest_path, open_store, read_array, verify_manifest, write_store
from conffusion.store.writer import ROWS_PER_SHARD

IDS = ["plain", "with space", "größe/画像", "ünï", "🙂"]


def arrays(n_images: int = 5) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "target": generator.random((n_images, 3, 4, 4), dtype=np.float32),
        "mask": np.zeros((n_images, 3, 4, 4), dtype=np.uint8),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_store(tmp_path / "test.zarr", arrays(), IDS, {"task": "inpainting", "seed": 3})
    return tmp_path / "test.zarr"


def files(store: Path) -> list[Path]:
    return sorted(file for file in store.rglob("*") if file.is_file())


def chunk_file(store: Path, name: str = "target") -> Path:
    return max(files(store / name), key=lambda file: file.stat().st_size)


def test_arrays_ids_and_attributes_come_back(path: Path) -> None:
    for name in (path, path.with_suffix(".json")):
        store = open_store(name)
        assert store.path == path
        assert store.image_ids == tuple(IDS)
        assert dict(store.attributes) == {"task": "inpainting", "seed": 3}
        assert set(store.arrays) == {"target", "mask"}
        for key, value in arrays().items():
            np.testing.assert_array_equal(read_array(store[key]), value)
            assert store[key].dtype == value.dtype
    np.testing.assert_array_equal(read_array(open_store(path)["target"], slice(1, 3)), arrays()["target"][1:3])


def test_store_is_zarr_v3_with_shards_and_checksums_for_other_software(path: Path) -> None:
    group = zarr.open_group(str(path), mode="r")
    target = group["target"]
    assert target.metadata.zarr_format == 3
    assert target.chunks == (1, 3, 4, 4) and target.shards == (5, 3, 4, 4)
    assert any(isinstance(codec, Crc32cCodec) for codec in target.compressors)
    assert dict(group.attrs) == {"task": "inpainting", "seed": 3}


@pytest.mark.parametrize(
    "n_images", [1, ROWS_PER_SHARD - 1, ROWS_PER_SHARD, ROWS_PER_SHARD + 1, 2 * ROWS_PER_SHARD + 2]
)
def test_any_number_of_images_fits(n_images: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    ids = [f"image-{k}" for k in range(n_images)]
    values = np.arange(n_images * 2, dtype=np.float32).reshape(n_images, 2, 1, 1)
    write_store(path, {"values": values}, ids, {})
    store = open_store(path)
    assert store.image_ids == tuple(ids)
    np.testing.assert_array_equal(read_array(store["values"]), values)


def test_writing_again_replaces_everything(path: Path) -> None:
    write_store(path, {"other": np.ones((2, 1))}, ["a", "b"], {"seed": 4})
    store = open_store(path)
    assert set(store.arrays) == {"other"}
    assert store.image_ids == ("a", "b")
    assert dict(store.attributes) == {"seed": 4}


def test_unknown_array_lists_the_known_ones(path: Path) -> None:
    with pytest.raises(StoreError, match=r"test.zarr: has no array 'lower', only .*target"):
        open_store(path)["lower"]


def check_refused(path: Path, file: str) -> None:
    for name in (path, path.with_suffix(".json")):
        with pytest.raises(StoreError) as caught:
            open_store(name)
        assert file in str(caught.value)
        assert "rerun the rule" in str(caught.value) or "run the rule" in str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 0.5, -1])
def test_truncated_chunk_is_refused(kept: float, path: Path) -> None:
    chunk = chunk_file(path)
    content = chunk.read_bytes()
    chunk.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    check_refused(path, str(chunk))


def test_every_flipped_byte_is_noticed_in_every_file(path: Path) -> None:
    for file in files(path):
        content = bytearray(file.read_bytes())
        for position in (0, len(content) // 2, len(content) - 1):
            content[position] ^= 1
            file.write_bytes(content)
            check_refused(path, str(file))
            content[position] ^= 1
        file.write_bytes(content)
    assert verify_manifest(path).attributes == {"task": "inpainting", "seed": 3}


def test_every_missing_file_is_noticed(path: Path) -> None:
    for file in files(path):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(StoreError, match="is missing"):
            open_store(path)
        check_refused(path, str(file))
        file.write_bytes(content)
    open_store(path)


def test_extra_rows_are_refused(path: Path) -> None:
    group = zarr.open_group(str(path), mode="r+")
    group["target"].append(np.zeros((1, 3, 4, 4), dtype=np.float32))
    check_refused(path, "target")


def test_timestamps_of_the_workflow_are_ignored(path: Path) -> None:
    for folder in (path, path / "target"):
        (folder / ".snakemake_timestamp").touch()
    assert open_store(path).image_ids == tuple(IDS)


def test_missing_store_or_manifest_is_refused(path: Path) -> None:
    manifest_path(path).rename(path.parent / "elsewhere.json")
    check_refused(path, "test.json")
    (path.parent / "elsewhere.json").rename(manifest_path(path))
    shutil.rmtree(path)
    check_refused(path, "test.zarr: no such store")


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '{"files": [3], "attributes": {}}', '{"files": {}}'])
def test_damaged_manifest_is_refused(content: str, path: Path) -> None:
    manifest_path(path).write_text(content)
    check_refused(path, "test.json")


def test_store_of_other_images_under_the_same_name_is_refused(path: Path) -> None:
    other = path.parent / "other.zarr"
    write_store(other, arrays(), IDS[::-1], {"task": "inpainting", "seed": 3})
    shutil.rmtree(path)
    other.rename(path)
    check_refused(path, "image_id")


def test_rows_and_ids_must_be_as_many(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a.zarr: array 'target' has 5 rows for 4 image ids"):
        write_store(tmp_path / "a.zarr", arrays(), IDS[:4], {})
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_no_store_and_no_older_manifest(path: Path) -> None:
    with pytest.raises(TypeError):
        write_store(path, arrays(), IDS, {"unserialisable": object()})
    with pytest.raises(StoreError):
        open_store(path)
    assert not manifest_path(path).exists()


def test_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    """A file-size limit stands in for a full disk: the kernel refuses the write in the same way."""
    script = textwrap.dedent(
        f"""
        import resource, signal
        import numpy as np
        from conffusion.errors import StoreError
        from conffusion.store import write_store
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        noise = np.random.default_rng(0).random((8, 3, 64, 64), dtype=np.float32)
        try:
            write_store({str(tmp_path / "a.zarr")!r}, {{"noise": noise}}, [str(k) for k in range(8)], {{}})
        except StoreError as error:
            print(error)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "a.zarr: cannot be written" in done.stdout
    assert "File too large" in done.stdout and "ulimit" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_killed_writer_leaves_a_store_that_no_reader_accepts(path: Path) -> None:
    """Killed while it replaces a store: the older manifest is gone first, so nothing stale looks complete."""
    script = textwrap.dedent(
        f"""
        import os, signal
        import numpy as np
        from conffusion.store import write_store

        class Killing:
            shape, dtype, ndim = (4, 3), np.dtype("float32"), 2
            def __len__(self):
                return 4
            def __getitem__(self, selection):
                os.kill(os.getpid(), signal.SIGKILL)

        write_store({str(path)!r}, {{"target": np.ones((4, 3), np.float32), "late": Killing()}}, list("abcd"), {{}})
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not manifest_path(path).exists()
    check_refused(path, "test.json")


def test_manifest_lists_every_file_with_its_checksum(path: Path) -> None:
    manifest = json.loads(manifest_path(path).read_text())
    assert set(manifest["files"]) == {file.relative_to(path).as_posix() for file in files(path)}
    assert manifest["store"] == path.name
    assert os.path.getmtime(manifest_path(path)) >= max(os.path.getmtime(file) for file in files(path))
