"""Headers are read once; a photograph that changed, or one never seen, is looked at again."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from conffusion.data.folder import FolderDataset
from conffusion.errors import DataError
from conffusion.images.image import ImageSequence
from tests.images.files import pack


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONFFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose headers are really read."""
    names: list[str] = []
    real = FolderDataset._open

    def listed(dataset: FolderDataset, file: str) -> ImageSequence:
        names.append(file)
        return real(dataset, file)

    monkeypatch.setattr(FolderDataset, "_open", listed)
    return names


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name in ("a.png", "b/c.jpg", "b/d.jpg"):
        save(tmp_path / "photographs" / name, 40)
    return tmp_path / "photographs"


def save(path: Path, side: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side + 3, side)).save(path)


def ids(path: Path, image_size: int = 16, **settings: object) -> list[str]:
    return list(FolderDataset(path, image_size, **settings).table()["image_id"])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_headers_are_read_once(kind: str, photographs: Path, reads: list[str]) -> None:
    path = photographs if kind == "folder" else pack(photographs, kind)
    first = ids(path)
    assert sorted(reads) == first == ["a.png", "b/c.jpg", "b/d.jpg"]
    assert ids(path) == first and ids(path, pattern="*.png") == ["a.png"]
    assert len(reads) == 3
    assert len(ids(path, fit="tile", tile_size=20)) == 3 * 2 * 2  # what the tiles follow from is known too


def test_only_new_and_changed_files_are_read_again(photographs: Path, reads: list[str]) -> None:
    ids(photographs)
    reads.clear()
    save(photographs / "b" / "c.jpg", 50)
    save(photographs / "new.png", 40)
    ids(photographs)
    assert sorted(reads) == ["b/c.jpg", "new.png"]
    status = (photographs / "a.png").stat()
    os.utime(photographs / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    ids(photographs)
    assert reads[2:] == ["a.png"]


def test_archive_that_changed_is_read_again(photographs: Path, reads: list[str]) -> None:
    ids(pack(photographs, "zip"))
    save(photographs / "new.png", 40)
    ids(pack(photographs, "zip"))
    assert len(reads) == 3 + 4


def test_known_photographs_can_be_too_small_for_other_settings(photographs: Path) -> None:
    ids(photographs)
    with pytest.raises(DataError, match=r"a\.png: is too small: 43x40 pixels"):
        ids(photographs, image_size=64)


def test_damaged_photograph_is_never_known(photographs: Path) -> None:
    whole = (photographs / "b" / "d.jpg").read_bytes()
    (photographs / "b" / "d.jpg").write_bytes(whole[:-20])
    for _ in range(2):
        with pytest.raises(DataError, match=r"d\.jpg: truncated"):
            ids(photographs)


@pytest.mark.parametrize("content", ["", "[]", '{"a.png": 3}', '{"a.png": []}', '{"a.png": [1, 2, 3]}'])
def test_damaged_list_is_made_again(content: str, photographs: Path, cache: Path, reads: list[str]) -> None:
    first = ids(photographs)
    (path,) = cache.iterdir()
    path.write_text(content)
    assert ids(photographs) == first and len(reads) == 6
    assert ids(photographs) == first and len(reads) == 6


@pytest.mark.parametrize("where", ["", "/dev/null/nowhere"])
def test_nothing_is_kept_where_nothing_can_be(
    where: str, photographs: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFFUSION_CACHE", where)
    assert ids(photographs) == ids(photographs)
    assert len(reads) == 6


def test_pages_are_known_and_zarr_arrays_are_read_again(photographs: Path, reads: list[str]) -> None:
    tifffile.imwrite(photographs / "stack.tif", np.zeros((3, 40, 44), np.uint8), photometric="minisblack")
    zarr.create_array(store=str(photographs / "two.zarr"), data=np.zeros((2, 1, 40, 44), np.uint8))
    first = ids(photographs)
    assert first[-5:] == ["stack.tif[0]", "stack.tif[1]", "stack.tif[2]", "two.zarr[0]", "two.zarr[1]"]
    reads.clear()
    assert ids(photographs) == first
    assert reads == ["two.zarr"]
