"""Stores in a bucket of a real server of the S3 protocol (moto) on loopback: the same numbers, the same refusals."""

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conffusion.errors import StoreError
from conffusion.pipeline.stages.bounds import extract_bounds
from conffusion.store import ArraySpec, new_store, open_store, read_array, read_json, verify_manifest, write_store
from tests.moto import empty_bucket, environment, moto_server
from tests.pipeline.stages.small_run import SAMPLING, SmallRun

obstore = pytest.importorskip("obstore", reason="the extra s3 is not installed")
pytestmark = pytest.mark.system  # about a minute with the server's start
ROOT = Path(__file__).parents[2]
URL = "s3://bucket/runs"
N_ROWS = 130  # three shards
IDS = [f"image-{k}" for k in range(N_ROWS)]
ATTRIBUTES = {"sampling": {"n_variants": 5}, "forward_passes_per_image": 40, "seconds_per_image": 0.5}


def variants() -> dict[str, np.ndarray]:
    return {"variants": np.random.default_rng(0).integers(0, 256, (N_ROWS, 5, 3, 4, 4), dtype=np.uint8)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as address:
        yield address


@pytest.fixture(autouse=True)
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty bucket, and a results folder to work in."""
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    empty_bucket(server)


def raw() -> Any:
    """The bucket itself."""
    from obstore.store import S3Store

    return S3Store.from_url("s3://bucket", client_options={"allow_http": True})


def objects() -> list[str]:
    return sorted(entry["path"] for entry in obstore.list(raw()).collect())


def test_arrays_come_back_and_only_the_manifest_is_here(tmp_path: Path) -> None:
    manifest = Path("results/r/task/variants/test/shard-0.json")
    write_store(manifest, variants(), IDS, ATTRIBUTES, url=URL)
    label = read_json(manifest)["store"]
    assert label.startswith(f"{URL}/results/r/task/variants/test/shard-0.") and label.endswith(".zarr")
    assert sorted(path.name for path in manifest.parent.iterdir()) == [".shard-0.attempts", "shard-0.json"]
    store = open_store(manifest)
    assert store.image_ids == tuple(IDS) and dict(store.attributes) == ATTRIBUTES
    np.testing.assert_array_equal(read_array(store["variants"]), variants()["variants"])


def test_bounds_are_those_of_a_local_store() -> None:
    for folder, url in (("local", None), ("remote", URL)):
        n_variants = np.full(N_ROWS, 5, np.int32)
        write_store(f"{folder}/a.json", {**variants(), "n_variants": n_variants}, IDS, ATTRIBUTES, url=url)
        outputs = {protocol: f"{folder}/{protocol}.json" for protocol in ("paper", "guaranteed")}
        extract_bounds(0.1, shards=[f"{folder}/a.json"], outputs=outputs)
    for protocol in ("paper", "guaranteed"):
        local, remote = (read_json(f"{folder}/{protocol}.json") for folder in ("local", "remote"))
        assert local == remote


def test_sampled_bounds_are_those_of_local_variants(tmp_path: Path) -> None:
    """The stages themselves: images, prior, two shards of variants, bounds."""
    run = SmallRun(tmp_path / "run", "super_resolution")
    run.prepare()
    run.train_prior()
    found = []
    for url in (None, URL):
        for k in range(2):
            run.sample("test", k, 2, SAMPLING.model_copy(update={"variants_url": url}))
        run.extract("test", 2)
        store = open_store(run.bounds("dm_sb", "guaranteed", "test"))
        found.append((store.image_ids, read_array(store["lower"]), read_array(store["upper"])))
    assert read_json(run.shard("test", 1))["store"].startswith(URL)
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_array_equal(found[0][2], found[1][2])


def damaged(name: str, kind: str) -> None:
    content = bytes(obstore.get(raw(), name).bytes())
    if kind == "missing":
        obstore.delete(raw(), name)
    elif kind == "truncated":
        obstore.put(raw(), name, content[: len(content) // 2])
    else:
        obstore.put(raw(), name, content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("kind", "words"), [("missing", "is missing"), ("truncated", "truncated"), ("flip", "altered")]
)
def test_damaged_objects_are_refused(kind: str, words: str) -> None:
    for part in ("zarr.json", "variants/zarr.json", "variants/c/0", "variants/c/2", "image_id/c/0"):
        write_store("a.json", variants(), IDS, ATTRIBUTES, url=URL)
        name = next(name for name in objects() if f".zarr/{part}" in name)
        damaged(name, kind)
        with pytest.raises(StoreError, match=words) as caught:
            open_store("a.json")
        assert name in str(caught.value) and "rerun the rule" in str(caught.value)


def test_object_that_vanishes_after_opening_is_no_zeros() -> None:
    write_store("a.json", variants(), IDS, ATTRIBUTES, url=URL)
    store = open_store("a.json")
    damaged(next(name for name in objects() if "variants/c/1" in name), "missing")
    with pytest.raises(StoreError, match="has vanished"):
        read_array(store["variants"], slice(64, 65))


def test_copied_bucket_with_other_etags_is_read_and_accepted() -> None:
    write_store("a.json", variants(), IDS, ATTRIBUTES, url=URL)
    manifest = read_json("a.json")
    manifest["marks"] = dict.fromkeys(manifest["marks"], "another")
    Path("a.json").write_text(json.dumps(manifest))
    assert verify_manifest("a.json").attributes == ATTRIBUTES


def test_repetition_replaces_what_was_there() -> None:
    for _ in range(2):
        write_store("a.json", variants(), IDS, ATTRIBUTES, url=URL)
    other = "other/a.json"
    write_store(other, variants(), IDS, ATTRIBUTES, url=URL)
    roots = {read_json(name)["store"].removeprefix("s3://bucket/") for name in ("a.json", other)}
    assert {name.split(".zarr/")[0] + ".zarr" for name in objects()} == roots


def test_failed_write_leaves_no_object_and_no_manifest() -> None:
    with pytest.raises(ValueError), new_store("a.json", {"a": ArraySpec((4,), np.float32)}, IDS, {}, url=URL) as writer:
        writer.append({"a": np.ones((100, 4), np.float32)})
        raise ValueError
    assert objects() == [] and not Path("a.json").exists()


def test_killed_writer_is_refused_and_its_objects_go_with_the_next() -> None:
    script = f"""
        import os, signal
        import numpy as np
        from conffusion.store import ArraySpec, new_store
        ids, layout = [str(k) for k in range(200)], {{"a": ArraySpec((4,), np.float32)}}
        with new_store("a.json", layout, ids, {{}}, url={URL!r}) as writer:
            writer.append({{"a": np.ones((150, 4), np.float32)}})
            os.kill(os.getpid(), signal.SIGKILL)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    left = objects()
    assert left
    with pytest.raises(StoreError, match="a.json is missing; run the rule"):
        open_store("a.json")
    write_store("a.json", variants(), IDS, ATTRIBUTES, url=URL)
    assert not set(left) & set(objects())
    open_store("a.json")


def test_bucket_that_is_not_there_is_named() -> None:
    with pytest.raises(StoreError, match=r"s3://nobody/runs/a\..*: cannot be written .*; check the bucket's name"):
        write_store("a.json", variants(), IDS, ATTRIBUTES, url="s3://nobody/runs")
    assert not Path("a.json").exists()
