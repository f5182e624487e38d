import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from conffusion.errors import DataError
from conffusion.images.listing import list_images, output_names


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_and_files_sorted_without_hidden_ones(tmp_path: Path) -> None:
    touch(
        tmp_path, "b/2.png", "b/10.PNG", "b/c/写真 1.tif", "b/.hidden.png", "b/.trash/a.png", "b/notes.txt", "a b.jpg"
    )
    zarr.create_array(store=str(tmp_path / "b" / "stack.zarr"), data=np.zeros((1, 2, 2), np.uint8))
    below = [tmp_path / "b" / name for name in ("10.PNG", "2.png", "c/写真 1.tif", "stack.zarr")]
    assert list_images([tmp_path / "b", tmp_path / "a b.jpg"]) == [tmp_path / "a b.jpg", *below]
    assert list_images([str(tmp_path / "b" / "stack.zarr")]) == [tmp_path / "b" / "stack.zarr"]


def test_a_named_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", ".hidden.png")
    named = [tmp_path / ".hidden.png", tmp_path / "notes.txt"]
    assert list_images(named) == named


def test_duplicates_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.png", "b.png", "--mask.png")
    (tmp_path / "link.png").symlink_to("a.png")
    monkeypatch.chdir(tmp_path)
    assert list_images(["a.png", ".", tmp_path / "b.png"]) == [Path("--mask.png"), Path("a.png"), Path("b.png")]


def test_links_that_lead_up_do_no_harm(tmp_path: Path) -> None:
    touch(tmp_path, "a/b.png")
    for name in ("up", "round"):
        (tmp_path / "a" / name).symlink_to("..")
    (tmp_path / "a" / "self.png").symlink_to("self.png")
    assert list_images([tmp_path]) == [tmp_path / "a" / "b.png"]


def test_nothing_found(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=r"gone\.png: no such file or folder"):
        list_images([tmp_path / "gone.png", tmp_path])
    with pytest.raises(DataError, match=rf"{tmp_path}: no images below this folder.*\.png.*\.zarr"):
        list_images([tmp_path])
    with pytest.raises(DataError, match="name at least one"):
        list_images([])


def test_names_are_paths_below_what_all_share(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a/x.png", "a/b/x.tif", "c/v1.2 final.jpg")]
    assert list(output_names(files).values()) == ["a/x", "a/b/x", "c/v1.2 final"]
    assert list(output_names(files)) == files
    assert output_names(files[1:2]) == {files[1]: "x"}
    assert output_names([]) == {}


def test_names_of_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path / "d")
    names = output_names(["../a.png", "b/c.png", str(tmp_path / "d" / "e.png"), "-o.png"])
    assert list(names.values()) == ["a", "d/b/c", "d/e", "d/-o"]
    assert all("/" not in name[:1] and ".." not in name for name in names.values())


def test_collisions_name_both(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path}/a\.png and {tmp_path}/a\.tif would both write to the folder 'a'"):
        output_names([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "a.tif"])
    with pytest.raises(DataError, match=r"stack\.tif .*stack/0003\.png .*numbers its pages"):
        output_names([tmp_path / "stack.tif", tmp_path / "stack" / "0003.png"])
    assert output_names([tmp_path / "a.png", tmp_path / "a" / "b.png"]) == {
        tmp_path / "a.png": "a",
        tmp_path / "a" / "b.png": "a/b",
    }


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(DataError, match=r"^closed: cannot be listed \(Permission denied\)"):
            list_images(["closed"])
    finally:
        os.seteuid(user)


def test_images_of_a_listing_are_real_ones(tmp_path: Path) -> None:
    """The suffixes that count are those of what can be read."""
    from conffusion.images.image import open_images

    for suffix in ("png", "jpg", "jpeg", "tif", "tiff", "pgm", "ppm", "bmp"):
        Image.new("L", (3, 2)).save(tmp_path / f"{suffix}.{suffix}")
    files = list_images([tmp_path])
    assert len(files) == 8
    assert {open_images(file)[0].size for file in files} == {(2, 3)}


def test_names_are_those_below_a_folder_that_was_named(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "people"
    folder.mkdir(parents=True)
    (folder / "a.png").touch()
    files = list_images([tmp_path / "photos"])
    assert output_names(files, [tmp_path / "photos"]) == {folder / "a.png": "people/a"}
    assert output_names(files, [folder, tmp_path / "photos"]) == {folder / "a.png": "people/a"}
    assert output_names(files, files) == {folder / "a.png": "a"}
