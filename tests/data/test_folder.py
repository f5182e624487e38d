import csv
import logging
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from conffusion.data.folder import FolderDataset, crop_centre
from conffusion.data.splits import assign_splits
from conffusion.errors import ConfigError, DataError
from conffusion.images.listing import mark_results
from conffusion.images.resize import resize_bicubic, to_uint8
from tests.conformance import blocky_image, load
from tests.images.files import pack

REAL = Path(__file__).parents[3] / "shared" / "data" / "real_images"


def save(path: Path, height: int = 40, width: int = 52, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Three people with two photographs each, and files that are no images."""
    for person in range(3):
        for k, mood in enumerate(("neutral", "smiling")):
            save(tmp_path / "people" / f"p{person:03d}_{mood}.png", seed=2 * person + k)
    (tmp_path / "people" / "LICENSE.md").write_text("CC-BY")
    (tmp_path / "people" / ".hidden.png").write_text("not an image")
    return tmp_path / "people"


def test_table_lists_images_by_path(people: Path) -> None:
    save(people / "été 2024" / "日本 1.PNG")
    dataset = FolderDataset(people, 16)
    table = dataset.table()
    assert list(table.columns) == ["image_id", "group", "source"]
    assert list(table["image_id"]) == sorted(table["image_id"])
    assert table["image_id"].iloc[-1] == "été 2024/日本 1.PNG"
    assert list(table["group"]) == list(table["image_id"]) == list(table["source"])
    assert len(table) == 7


def test_load_follows_the_ids_and_is_float_in_0_1(people: Path) -> None:
    dataset = FolderDataset(people, 16)
    ids = list(dataset.table()["image_id"])
    images = dataset.load(ids)
    assert images.shape == (6, 3, 16, 16) and images.dtype == np.float32
    assert 0 <= images.min() and images.max() <= 1
    np.testing.assert_array_equal(dataset.load(ids[::-1]), images[::-1])
    assert dataset.load([]).shape == (0, 3, 16, 16)


def test_pattern_selects_files(people: Path) -> None:
    assert len(FolderDataset(people, 16, pattern="*_smiling.png").table()) == 3


def test_crop_keeps_the_centre_and_resize_squeezes(tmp_path: Path) -> None:
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 255
    Image.fromarray(pixels).save(tmp_path / "bar.png")
    assert (FolderDataset(tmp_path, 32).load(["bar.png"]) == 1).all()
    squeezed = FolderDataset(tmp_path, 32, fit="resize").load(["bar.png"])[0, 0, 16]
    assert squeezed[0] == 0 and squeezed[16] == 1 and squeezed[31] == 0


@pytest.mark.parametrize("shape", [(40, 52), (52, 40), (33, 33), (32, 47)])
def test_crop_size(shape: tuple[int, int]) -> None:
    assert crop_centre(np.zeros((*shape, 3), np.uint8), 32).shape == (32, 32, 3)


def test_tiles_cover_a_centred_grid_without_overlap(tmp_path: Path) -> None:
    pixels = save(tmp_path / "scene.png", 35, 52)
    dataset = FolderDataset(tmp_path, 16, fit="tile")
    table = dataset.table()
    assert list(table["image_id"]) == [f"scene.png#{k}" for k in range(6)]
    assert set(table["group"]) == set(table["source"]) == {"scene.png"}
    tiles = np.rint(dataset.load(list(table["image_id"])) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    rows = [np.concatenate(list(tiles[k : k + 3]), axis=1) for k in (0, 3)]
    np.testing.assert_array_equal(np.concatenate(rows), pixels[1:33, 2:50])


def test_large_tiles_are_reduced_and_counted(tmp_path: Path) -> None:
    for k in range(2):
        save(tmp_path / f"scene{k}.png", 100, 170, seed=k)
    dataset = FolderDataset(tmp_path, 16, fit="tile", tile_size=32, max_tiles_per_image=4)
    ids = list(dataset.table()["image_id"])
    assert len(ids) == 8
    full = FolderDataset(tmp_path, 16, fit="tile", tile_size=32)
    assert set(ids) < set(full.table()["image_id"])
    assert dataset.load(ids).shape == (8, 3, 16, 16)
    np.testing.assert_array_equal(dataset.load(ids[2:3]), full.load(ids)[2:3])


def test_group_pattern(people: Path) -> None:
    for pattern in (r"p(\d+)_", r"(p)(?P<group>\d+)_"):
        dataset = FolderDataset(people, 16, group_pattern=pattern)
        assert list(dataset.table()["group"]) == ["000", "000", "001", "001", "002", "002"]


def test_group_rule_goes_before_the_photograph_for_tiles(people: Path) -> None:
    dataset = FolderDataset(people, 16, fit="tile", group_pattern=r"(p\d+)_")
    assert dataset.table()["group"].value_counts().to_dict() == {f"p00{k}": 12 for k in range(3)}


def test_group_pattern_that_misses_a_file(people: Path) -> None:
    save(people / "visitor.png")
    with pytest.raises(DataError, match=r"visitor\.png: .*group_pattern.*finds no group in 'visitor\.png'"):
        FolderDataset(people, 16, group_pattern=r"p(\d+)_").table()


def write_csv(path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("file", "group")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_group_csv(people: Path, tmp_path: Path) -> None:
    files = [f"p{person:03d}_{mood}.png" for person in range(3) for mood in ("neutral", "smiling")]
    rows = [(file, "NA" if file.startswith("p000") else "others") for file in files]
    path = write_csv(tmp_path / "groups.csv", [*rows, ("not_there.png", "x")])
    dataset = FolderDataset(people, 16, group_csv=path)
    assert list(dataset.table()["group"]) == ["NA", "NA", "others", "others", "others", "others"]


def test_group_csv_errors(people: Path, tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    dataset = FolderDataset(people, 16, group_csv=path)
    with pytest.raises(DataError, match=r"groups\.csv: cannot be read"):
        dataset.table()
    write_csv(path, [("p000_neutral.png", "a")])
    with pytest.raises(DataError, match=r"gives no group for 'p000_smiling\.png' \(5 files in all\)"):
        dataset.table()
    write_csv(path, [("p000_neutral.png", "a"), ("p000_neutral.png", "b")])
    with pytest.raises(DataError, match="lists the file 'p000_neutral.png' twice"):
        dataset.table()
    write_csv(path, [("p000_neutral.png", "a")], header=("file", "person"))
    with pytest.raises(DataError, match="lacks the column 'group'"):
        dataset.table()


def test_damaged_files_stop_the_indexing(people: Path) -> None:
    cut = people / "p001_cut.jpg"
    save(cut)
    cut.write_bytes(cut.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"p001_cut\.jpg: truncated"):
        FolderDataset(people, 16).table()


def test_text_renamed_to_png_stops_the_indexing(people: Path) -> None:
    (people / "notes.png").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.png: is no image in PNG"):
        FolderDataset(people, 16).table()


def test_damage_behind_the_header(people: Path) -> None:
    path = people / "deep.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint16), photometric="rgb")
    path.write_bytes(path.read_bytes()[:-1000])
    dataset = FolderDataset(people, 16)
    for read in (dataset.table, lambda: dataset.load(["deep.tif"])):
        with pytest.raises(DataError, match=r"deep\.tif: truncated"):
            read()
    path.unlink()
    whole = (people / "p001_neutral.png").read_bytes()
    (people / "p001_neutral.png").write_bytes(whole[:2000] + b"damage" + whole[2006:])
    dataset = FolderDataset(people, 16)
    for read in (dataset.table, lambda: dataset.load(["p001_neutral.png"])):
        with pytest.raises(DataError, match=r"p001_neutral\.png: cannot be read as an image"):
            read()


def test_images_too_small_for_the_size_or_the_tiles(people: Path) -> None:
    with pytest.raises(DataError, match=r"p000_neutral\.png: is too small: 52x40 pixels.*at least 64"):
        FolderDataset(people, 64).table()
    with pytest.raises(DataError, match=r"p000_neutral\.png: is too small.*at least 48"):
        FolderDataset(people, 16, fit="tile", tile_size=48).table()


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"pattern = '\*\*/\*' \(there: 1 file of other kinds"):
        FolderDataset(tmp_path, 16).table()
    with pytest.raises(DataError, match=r"dataset\.folder\.path = .*nowhere: does not exist"):
        FolderDataset(tmp_path / "nowhere", 16).table()


@pytest.mark.parametrize("image_id", ["gone.png", "../people/p000_neutral.png", "/etc/passwd", ""])
def test_foreign_ids(people: Path, image_id: str) -> None:
    with pytest.raises(DataError, match="is missing|is not an image of"):
        FolderDataset(people, 16).load([image_id])


@pytest.mark.parametrize("image_id", ["p000_neutral.png", "p000_neutral.png#x", "p000_neutral.png#6"])
def test_foreign_tiles(people: Path, image_id: str) -> None:
    with pytest.raises(DataError, match="is not an image of|so no tile 6"):
        FolderDataset(people, 16, fit="tile").load([image_id])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit": "stretch"}, "fit = 'stretch': must be one of crop, resize, tile"),
        ({"resample": "nearest"}, "resample = 'nearest': must be one of bicubic, bilinear"),
        ({"image_size": 0}, "image_size = 0: must be at least 1"),
        ({"workers": 0}, "workers = 0: must be at least 1"),
        ({"tile_size": 32}, "tile_size is only used with fit: tile"),
        ({"fit": "tile", "tile_size": 8}, "tile_size = 8: must be at least image_size = 16"),
        ({"fit": "tile", "max_tiles_per_image": 0}, "max_tiles_per_image = 0"),
        ({"group_pattern": "p("}, "not a regular expression"),
        ({"group_pattern": r"p\d+"}, "needs a part in round brackets"),
        ({"group_pattern": r"(p)", "group_csv": "groups.csv"}, "either group_pattern or group_csv"),
        ({"value_range": (1, 1)}, "value_range = [1, 1]: must be two numbers, low below high".replace("[", r"\[")),
        ({"pattern": "/tmp/*.png"}, "must be a glob below"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        FolderDataset("anywhere", **{"image_size": 16, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "settings", [{}, {"fit": "tile"}, {"group_pattern": r"(p\d+)_", "pattern": "mo*/*_smiling.png"}]
)
def test_archives_are_read_like_the_folder(people: Path, kind: str, settings: dict[str, str]) -> None:
    save(people / "more" / "p003_smiling.png", seed=9)
    save(people / "__MACOSX" / "p003_smiling.png")
    on_disk = FolderDataset(people, 16, **settings)  # type: ignore[arg-type]
    packed = FolderDataset(pack(people, kind), 16, **settings)  # type: ignore[arg-type]
    table = packed.table()
    assert table.equals(on_disk.table())
    assert "more/p003_smiling.png" in set(table["source"])
    ids = list(table["image_id"])
    np.testing.assert_array_equal(packed.load(ids), on_disk.load(ids))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_groups_of_an_archive_by_csv_on_disk(people: Path, tmp_path: Path, kind: str) -> None:
    files = [f"p{person:03d}_{mood}.png" for person in range(3) for mood in ("neutral", "smiling")]
    path = write_csv(tmp_path / "groups.csv", [(file, file[:4]) for file in files])
    table = FolderDataset(pack(people, kind), 16, group_csv=path).table()
    assert list(table["group"]) == [file[:4] for file in files]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_errors_name_archive_and_file(people: Path, kind: str) -> None:
    with pytest.raises(DataError, match=rf"people\.{kind}: gone\.png: is missing"):
        FolderDataset(pack(people, kind), 16).load(["gone.png"])
    with pytest.raises(DataError, match=rf"people\.{kind}: p000_neutral\.png: is too small: 52x40 pixels"):
        FolderDataset(pack(people, kind), 64).table()
    with pytest.raises(DataError, match=rf"people\.{kind}: no images match .* \(there: 1 file of other kinds"):
        FolderDataset(pack(people, kind), 16, pattern="*.md").table()
    (people / "notes.png").write_text("hello")
    with pytest.raises(DataError, match=rf"people\.{kind}: notes\.png: is no image"):
        FolderDataset(pack(people, kind), 16).table()


def test_damaged_member_of_a_zip_archive(people: Path) -> None:
    archive = pack(people, "zip")
    with zipfile.ZipFile(archive) as opened:
        entry = opened.getinfo("p001_neutral.png")
    whole, middle = archive.read_bytes(), entry.header_offset + entry.compress_size // 2
    archive.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    for read in (FolderDataset(archive, 16).table, lambda: FolderDataset(archive, 16).load(["p001_neutral.png"])):
        with pytest.raises(DataError, match=r"people\.zip: p001_neutral\.png: cannot be read as an image"):
            read()


@pytest.mark.parametrize("fit", ["crop", "tile"])
def test_the_number_of_threads_does_not_matter(people: Path, fit: str) -> None:
    one, many = (FolderDataset(people, 16, fit=fit, workers=workers) for workers in (1, 5))  # type: ignore[arg-type]
    assert one == many
    table = one.table()
    assert many.table().equals(table)
    ids = list(table["image_id"].sample(frac=1, random_state=0))
    np.testing.assert_array_equal(many.load(ids), one.load(ids))


@pytest.mark.parametrize("workers", [1, 5])
def test_of_several_damaged_files_the_first_is_named(people: Path, workers: int) -> None:
    for name in ("p002_neutral.png", "p000_smiling.png"):
        (people / name).write_text("hello")
    with pytest.raises(DataError, match=r"p000_smiling\.png: is no image"):
        FolderDataset(people, 16, workers=workers).table()
    with pytest.raises(DataError, match=r"p002_neutral\.png: is no image"):
        FolderDataset(people, 16, workers=workers).load(["p001_neutral.png", "p002_neutral.png", "p000_smiling.png"])


def test_consecutive_tiles_read_a_photograph_once_and_many_files_show_progress(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for k in range(300):
        save(tmp_path / f"{k:03d}.png", 8, 16, seed=k)
    dataset = FolderDataset(tmp_path, 8, fit="tile")
    with caplog.at_level(logging.INFO, logger="conffusion"):
        ids = list(dataset.table()["image_id"])
        dataset.load(ids)
    assert len(ids) == 600
    checked, loaded = (record.message for record in caplog.records if "(100 %)" in record.message)
    assert checked.startswith(f"checking {tmp_path}: 300/300 files (100 %)")
    assert loaded.startswith(f"reading {tmp_path}: 300/300 files (100 %)")


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize("seed", [701, 702])
def test_official_images_of_a_256_pixel_photograph(tmp_path: Path, kind: str, seed: int) -> None:
    folder = tmp_path / "celeba"
    folder.mkdir()
    Image.fromarray(blocky_image(seed)).save(folder / "0.png")
    high = FolderDataset(folder if kind == "folder" else pack(folder, kind), 128)
    low = high.at_side(16).load(["0.png"])
    images = {
        "hr": high.load(["0.png"]),
        "lr": low,
        "sr": resize_bicubic(low, 128, 128),
        "g_inpainting_128": replace(high, resample="bilinear").load(["0.png"]),
    }
    _, arrays = load("images/degradation")
    for name, image in images.items():
        pixels = to_uint8(image)[0].transpose(1, 2, 0).astype(int)
        stored = pixels if name == "lr" else pixels[::4, ::4]
        np.testing.assert_allclose(stored, arrays[f"{name}_{seed}"], atol=1)


def test_tiles_keep_their_source_at_another_side(tmp_path: Path) -> None:
    pixels = save(tmp_path / "scene.png", 64, 96)
    dataset = FolderDataset(tmp_path, 32, fit="tile", max_tiles_per_image=3)
    small = dataset.at_side(8)
    assert (small.image_size, small.source_side) == (8, 32)
    assert small.table().equals(dataset.table())
    expected = np.asarray(Image.fromarray(pixels[:32, 32:64]).resize((8, 8), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(to_uint8(small.load(["scene.png#1"]))[0].transpose(1, 2, 0), expected)
    with pytest.raises(ConfigError, match="tile_size = 32: must be at least image_size = 64"):
        dataset.at_side(64)


def test_photographs_are_cropped_from_the_source_at_another_side(tmp_path: Path) -> None:
    save(tmp_path / "photo.png", 64, 96)
    for fit in ("crop", "resize"):
        dataset = FolderDataset(tmp_path, 32, fit=fit, resample="bilinear")  # type: ignore[arg-type]
        assert dataset.at_side(8) == FolderDataset(tmp_path, 8, fit=fit, resample="bilinear")  # type: ignore[arg-type]


def write_stacks(folder: Path, n_pages: int = 3) -> dict[str, np.ndarray]:
    """A stack of 16 bits, a zarr array and a plain image, with their (pages, H, W) values in [0, 1]."""
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 65536, (n_pages, 20, 24), dtype=np.uint16)
    array = rng.random((2, 1, 20, 24), dtype=np.float32)
    folder.mkdir()
    tifffile.imwrite(folder / "stack.tif", stack, photometric="minisblack", compression="lzw")
    zarr.create_array(store=str(folder / "two.zarr"), data=array)
    single = save(folder / "plain.png", 20, 24)[None].mean(axis=3) / 255
    return {"plain.png": single, "stack.tif": stack / 65535, "two.zarr": array[:, 0]}


def test_every_page_and_every_image_of_an_array_counts(tmp_path: Path) -> None:
    values = write_stacks(tmp_path / "in")
    dataset = FolderDataset(tmp_path / "in", 20)
    table = dataset.table()
    assert list(table["image_id"]) == [
        "plain.png", "stack.tif[0]", "stack.tif[1]", "stack.tif[2]", "two.zarr[0]", "two.zarr[1]",
    ]  # fmt: skip
    assert list(table["group"]) == ["plain.png", *3 * ["stack.tif"], *2 * ["two.zarr"]] == list(table["source"])
    order = ["two.zarr[1]", "stack.tif[2]", "stack.tif[0]"]
    pages = [values["two.zarr"][1], values["stack.tif"][2], values["stack.tif"][0]]
    for image, page in zip(dataset.load(order), pages, strict=True):
        np.testing.assert_allclose(image, np.broadcast_to(page[:, 2:22], (3, 20, 20)), atol=1e-6)
    with pytest.raises(DataError, match=r"stack\.tif: has 3 images, so no \[3\]"):
        dataset.load(["stack.tif[3]"])


def test_tiles_of_pages(tmp_path: Path) -> None:
    values = write_stacks(tmp_path / "in")
    dataset = FolderDataset(tmp_path / "in", 10, fit="tile", pattern="*.tif")
    table = dataset.table()
    assert list(table["image_id"]) == [f"stack.tif[{page}]#{tile}" for page in range(3) for tile in range(4)]
    assert set(table["group"]) == {"stack.tif"}
    (image,) = dataset.load(["stack.tif[1]#3"])
    np.testing.assert_allclose(image[0], values["stack.tif"][1, 10:20, 12:22], atol=1e-6)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_stacks_in_archives(tmp_path: Path, kind: str) -> None:
    write_stacks(tmp_path / "in")
    on_disk = FolderDataset(tmp_path / "in", 16, pattern="*.tif")
    packed = FolderDataset(pack(tmp_path / "in", kind), 16, pattern="*.tif")
    assert packed.table().equals(on_disk.table())
    np.testing.assert_array_equal(packed.load(["stack.tif[2]"]), on_disk.load(["stack.tif[2]"]))


def test_value_range_and_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = np.random.default_rng(0).integers(0, 4096, (3, 20, 20)).astype(np.uint16)
    for k, image in enumerate(counts):
        tifffile.imwrite(tmp_path / f"{k}.tif", image)
    ids = [f"{k}.tif" for k in range(3)]
    images, warnings = FolderDataset(tmp_path, 20).load_with_warnings(ids)
    np.testing.assert_allclose(images[:, 0], counts / 65535, atol=1e-6)
    ((text, count),) = warnings.items()
    assert count == 3 and "give --value-range 0 4095" in text
    FolderDataset(tmp_path, 20).load(ids)
    assert f"{tmp_path}: 3 of the images read: 16-bit values reach only" in caplog.text
    images, warnings = FolderDataset(tmp_path, 20, value_range=(0, 4095)).load_with_warnings(ids)
    np.testing.assert_allclose(images[:, 0], counts / 4095, atol=1e-6)
    assert not warnings
    with pytest.raises(DataError, match="choose a range that holds them"):
        FolderDataset(tmp_path, 20, value_range=(0, 2000)).load(ids)


def test_results_in_the_folder_are_no_photographs(people: Path) -> None:
    save(people / "restored" / "a" / "lower.png")
    mark_results(people / "restored" / "a")
    assert len(FolderDataset(people, 16).table()) == 6


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_two_spellings_of_a_name_in_a_rule_of_groups(tmp_path: Path, form: Literal["NFC", "NFD"]) -> None:
    save(tmp_path / "in" / unicodedata.normalize("NFD", "Bäume.png"))
    path = write_csv(tmp_path / "groups.csv", [(unicodedata.normalize(form, "Bäume.png"), "trees")])
    assert list(FolderDataset(tmp_path / "in", 16, group_csv=path).table()["group"]) == ["trees"]
    pattern = unicodedata.normalize(form, "(Bäume)")
    assert list(FolderDataset(tmp_path / "in", 16, group_pattern=pattern).table()["group"]) == ["Bäume"]


def unpack(name: str, folder: Path) -> Path:
    archive = REAL / f"{name}.zip"
    if not archive.exists():
        pytest.skip(f"the real photographs are not on this machine: {archive} is missing")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder / name


@pytest.mark.parametrize(
    ("name", "settings", "n_images", "n_groups"),
    [
        ("faces_london", {"group_pattern": r"(p\d+)_"}, 140, 70),
        ("faces_orl", {"group_pattern": r"(s\d+)/"}, 300, 30),
        ("natural_bsds500", {"fit": "tile", "tile_size": 96, "max_tiles_per_image": 4}, 320, 80),
    ],
)
def test_real_photographs(tmp_path: Path, name: str, settings: dict[str, object], n_images: int, n_groups: int) -> None:
    dataset = FolderDataset(unpack(name, tmp_path), 32, **settings)  # type: ignore[arg-type]
    table = dataset.table()
    assert (len(table), table["group"].nunique()) == (n_images, n_groups)
    shares = {"finetune": 0.4, "selection": 0.1, "calibration": 0.3, "test": 0.2}
    splits = assign_splits(table, shares, seed=0)
    assert splits.groupby("group")["split"].nunique().max() == 1 and len(splits) == n_images
    images = dataset.load(list(splits["image_id"][:40]))
    assert images.std() > 0.1 and 0 <= images.min() and images.max() <= 1
