import io
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from conffusion.errors import DataError
from conffusion.images.sources import Source, open_source
from tests.images.files import pack

NAMES = ["a.png", "img/3.jpg", "img/deep/4.jpg", "img/été 5 #1.PNG"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "celeba" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)
    return tmp_path / "celeba"


@pytest.fixture(params=["folder", "zip", "tar"])
def source(request: pytest.FixtureRequest, folder: Path) -> Source:
    return open_source(folder if request.param == "folder" else pack(folder, request.param))


def content(source: Source, file: str) -> bytes:
    with source.at(file).open("rb") as opened:
        return opened.read()


def write_tar(path: Path, names: list[str], body: bytes = b"body") -> Path:
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return path


def write_zip(path: Path, names: list[str], body: bytes = b"body") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, body)
    return path


def test_content_and_random_access(source: Source) -> None:
    for name in NAMES:
        assert content(source, name) == name.encode() * 1000
    with source.at("a.png").open("rb") as opened:
        opened.seek(5)
        assert opened.read(5) == b"a.png"


def test_messages_name_file_and_archive(folder: Path) -> None:
    assert open_source(folder).describe("img/3.jpg") == f"{folder}/img/3.jpg"
    for kind in ("zip", "tar"):
        assert open_source(pack(folder, kind)).describe("img/3.jpg") == f"{folder}.{kind}: img/3.jpg"


def test_missing_file(source: Source) -> None:
    with pytest.raises(FileNotFoundError):
        source.at("img/6.jpg").open("rb")


def test_many_threads_read_what_one_reads(source: Source) -> None:
    wanted = NAMES * 100
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: content(source, name), wanted))
    assert found == [name.encode() * 1000 for name in wanted]


@pytest.mark.parametrize(("kind", "write"), [("zip", write_zip), ("tar", write_tar)])
def test_names_outside_the_archive_are_passed_over(
    tmp_path: Path, kind: str, write: Callable[[Path, list[str]], Path]
) -> None:
    names = ["../up.png", "img/../../up.png", "/etc/root.png", "./img//in.png"]
    source = open_source(write(tmp_path / f"odd.{kind}", names))
    assert source.files() == ["img/in.png"]
    assert content(source, "img/in.png") == b"body"
    assert not list(tmp_path.glob("*.png"))
    with pytest.raises(FileNotFoundError):
        source.at("../up.png").open("rb")


def test_the_last_of_equal_names_counts(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "twice.tar", ["a.png"], b"old")
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("./a.png")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"new"))
    assert content(open_source(path), "a.png") == b"new"


def test_links_in_tar_archives_are_passed_over(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "linked.tar", ["a.png"])
    with tarfile.open(path, "a") as archive:
        for kind, name in ((tarfile.SYMTYPE, "soft.png"), (tarfile.LNKTYPE, "hard.png")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.png"
            archive.addfile(member)
    assert open_source(path).files() == ["a.png"]


@pytest.mark.parametrize("name", ["celeba.tar.gz", "celeba.tgz", "CELEBA.TAR.XZ"])
def test_compressed_tar_archives_are_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / name, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match=rf"{name}: a compressed tar archive.*extract it, or pack.*\.zip or as \.tar"):
        open_source(tmp_path / name)


def test_missing_paths_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.folder\.path = .*celeba\.zip: does not exist"):
        open_source(tmp_path / "celeba.zip")
    (tmp_path / "celeba.7z").write_text("7z")
    with pytest.raises(DataError, match=r"celeba\.7z: is neither a folder nor a \.zip or \.tar archive"):
        open_source(tmp_path / "celeba.7z")


def damaged(folder: Path, kind: str, damage: str) -> Path:
    archive = pack(folder, kind)
    whole = archive.read_bytes()
    with tarfile.open(pack(folder, "tar")) as opened:
        headers = [member.offset for member in opened.getmembers()]
    if damage == "in a header":
        archive.write_bytes(whole[: headers[2]] + b"x" * 512 + whole[headers[2] + 512 :])
    else:
        n_left = {"empty": 0, "in a file": len(whole) // 2, "at a header": headers[2]}[damage]
        archive.write_bytes(whole[:n_left])
    return archive


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("zip", "empty"),
        ("zip", "in a file"),
        ("tar", "empty"),
        ("tar", "in a file"),
        ("tar", "at a header"),
        ("tar", "in a header"),
    ],
)
def test_damaged_archives_are_named(folder: Path, kind: str, damage: str) -> None:
    path = damaged(folder, kind, damage)
    with pytest.raises(DataError, match="cannot be read as an archive .*; download or pack it again") as caught:
        open_source(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_text_renamed_to_an_archive(tmp_path: Path) -> None:
    for name in ("notes.zip", "notes.tar"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(DataError, match=f"{name}: cannot be read as an archive"):
            open_source(tmp_path / name)


def test_damaged_member_of_a_zip_archive(tmp_path: Path) -> None:
    body = np.random.default_rng(0).bytes(1000)
    path = write_zip(tmp_path / "celeba.zip", ["a.png", "b.png"], body)
    path.write_bytes(path.read_bytes().replace(body, body[:500] + bytes(500), 1))
    source = open_source(path)
    assert content(source, "b.png") == body
    for _ in range(3):  # a failure leaves the archive usable
        with pytest.raises(zipfile.BadZipFile, match="CRC"):
            source.at("a.png").open("rb")
        assert content(source, "b.png") == body
