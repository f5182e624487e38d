import logging
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from conffusion.errors import DataError
from conffusion.images.image import open_images
from conffusion.images.listing import list_images, list_source, mark_results, output_names
from conffusion.images.sources import FolderSource, open_source
from tests.images.files import pack


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


NAMES = ["a.png", "img/3.jpg", "img/deep/4.jpg", "img/été 5 #1.PNG"]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*", NAMES),
        ("*", NAMES[:1]),
        ("*.jpg", []),
        ("img/*.jpg", NAMES[1:2]),
        ("img/**/*.jpg", NAMES[1:3]),
        ("**/*.jpg", NAMES[1:3]),
        ("**/deep/*", NAMES[2:3]),
        ("*/?.jpg", NAMES[1:2]),
        ("img/[0-3].*", NAMES[1:2]),
    ],
)
def test_images_by_pattern(tmp_path: Path, kind: str, pattern: str, names: list[str]) -> None:
    touch(tmp_path / "in", *NAMES, ".hidden/b.png", "__MACOSX/a.png")
    source = open_source(tmp_path / "in" if kind == "folder" else pack(tmp_path / "in", kind))
    assert list_source(source, pattern).images == names


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_results_are_no_images(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "in"
    touch(folder, "a.png", "restored/a/lower.png", "restored/a/interval.json", "restored/b/lower.png")
    touch(folder, "restored/c/0001/lower.png", "risk_curve.png", "restored/d.png")
    mark_results(folder / "restored" / "b")
    mark_results(folder / "restored" / "c" / "0001")
    listing = list_source(open_source(folder if kind == "folder" else pack(folder, kind)))
    assert listing.images == ["a.png", "restored/d.png"]
    assert listing.n_results == 5
    assert listing.passed_over() == "5 files in folders of results of conffusion"
    if kind == "folder":
        with pytest.raises(DataError, match="no images below this folder, only 1 file in folders of results"):
            list_images([folder / "restored" / "b"])


def test_files_of_other_kinds_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.png", "b.webp", "c.WEBP", "notes.txt", "README", ".hidden.gif")
    with caplog.at_level(logging.WARNING):
        assert list_images([tmp_path]) == [tmp_path / "a.png"]
    expected = f"{tmp_path}: passed over: 4 files of other kinds (2 .webp, 1 without a suffix, 1 .txt)"
    assert [record.message for record in caplog.records] == [expected]
    with pytest.raises(DataError, match=r"no images below this folder, only 1 file of other kinds \(1 \.txt\)"):
        touch(tmp_path, "other/notes.txt")
        list_images([tmp_path / "other"])


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.png", "photos/own/b.png")
    (tmp_path / "photos" / "day1").symlink_to(tmp_path / "real")
    (tmp_path / "photos" / "day2").symlink_to(tmp_path / "real")
    (tmp_path / "photos" / "again").symlink_to("own")  # its name comes first, but it is only a link
    (tmp_path / "real" / "up").symlink_to("..")
    assert list_source(FolderSource(tmp_path / "photos")).images == ["day1/a.png", "own/b.png"]
    assert list_images([tmp_path / "photos"]) == [tmp_path / "photos" / "day1" / "a.png", tmp_path / "photos/own/b.png"]


def test_linked_files_are_there_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/x.png", "photos/a.png")
    for name, target in (("0.png", "a.png"), ("c.png", "../elsewhere/x.png"), ("d.png", "../elsewhere/x.png")):
        (tmp_path / "photos" / name).symlink_to(target)
    assert list_source(FolderSource(tmp_path / "photos")).images == ["a.png", "c.png"]


def test_two_spellings_of_a_name_are_one(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Bäume.png") for form in ("NFC", "NFD"))
    touch(tmp_path, f"images/{composed}", f"truths/{decomposed}")
    ours, theirs = (output_names(list_images([tmp_path / name]), [tmp_path / name]) for name in ("images", "truths"))
    assert list(ours.values()) == list(theirs.values())
    touch(tmp_path, f"truths/{composed}")
    with pytest.raises(DataError, match="would both write to the folder"):
        output_names(list_images([tmp_path / "truths"]))
