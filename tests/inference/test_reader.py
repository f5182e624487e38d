"""What a command is given: matched by name, checked before any work."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from conffusion import Predictor
from conffusion.errors import ConfigError, DataError
from conffusion.images.resize import resize_bicubic
from conffusion.inference.reader import Reader, ReadingOptions, open_reader
from tests.inference.conftest import write_images
from tests.inference.small_package import small_package


def take(predictor: Predictor, images: list[Path], targets: list[Path], **options: object) -> Reader:
    return open_reader(predictor.package, images, targets, ReadingOptions(**options))  # type: ignore[arg-type]


def test_truths_alone_are_reduced_as_the_task_does(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b/c.png"], side=18)
    reader = take(enlarging, [], [tmp_path])
    assert list(reader.names) == ["a", "b/c"] and reader.groups is None
    item = reader.read("b/c")
    assert item.target is not None and item.target.shape == (3, 16, 20)  # cut to multiples of the factor, 4
    np.testing.assert_array_equal(item.image, resize_bicubic(item.target[None], 4, 5)[0])
    assert item.mask is None


def test_pairs_are_matched_by_their_names(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "truth", ["x.png", "y.png"], side=16)
    for name, width in (("x", 4), ("y", 5)):
        Image.new("RGB", (width, 4)).save(tmp_path / f"{name}.bmp")
    reader = take(enlarging, [tmp_path / "x.bmp", tmp_path / "y.bmp"], [tmp_path / "truth"])
    item = reader.read("y")
    assert item.image.shape == (3, 4, 5) and item.target is not None and item.target.shape == (3, 16, 20)


def test_pairs_match_whichever_way_their_accents_are_spelled(enlarging: Predictor, tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Bäume.png") for form in ("NFC", "NFD"))
    write_images(tmp_path / "truth", [composed], side=16)
    write_images(tmp_path / "small", [decomposed], side=4)
    assert list(take(enlarging, [tmp_path / "small"], [tmp_path / "truth"]).names) == ["Bäume"]


def test_images_without_a_partner_are_named(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "truth", ["x.png", "z.png"])
    write_images(tmp_path / "small", ["x.png", "y.png"])
    with pytest.raises(DataError, match=r"y\.png: has no truth of the same name"):
        take(enlarging, [tmp_path / "small"], [tmp_path / "truth"])


def test_a_truth_of_another_size_is_refused(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "truth", ["x.png"], side=16)
    write_images(tmp_path / "small", ["x.png"], side=16)
    reader = take(enlarging, [tmp_path / "small"], [tmp_path / "truth"])
    with pytest.raises(DataError, match="restored will have 64x64"):
        reader.read("x")


def test_masks_of_a_folder_belong_to_the_images_of_their_names(filling: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png", "b.png"], side=20)
    for name, width, place in (("a", 20, 3), ("b", 24, 9)):
        mask = np.zeros((20, width), np.uint8)
        mask[place : place + 4, place : place + 4] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.tif")
    reader = take(filling, [tmp_path / "images"], [], masks=tmp_path / "masks")
    mask = reader.read("b").mask
    assert mask is not None and mask.shape == (20, 24) and mask.sum() == 16 and mask[9, 9] == 1


def test_missing_masks_are_named_before_any_work(filling: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png", "b.png"])
    write_images(tmp_path / "masks", ["a.png"])
    with pytest.raises(DataError, match="has no mask called 'b'"):
        take(filling, [tmp_path / "images"], [], masks=tmp_path / "masks")
    for targets in ([], [tmp_path / "images"]):  # a hole of our own would not be that of the images
        with pytest.raises(DataError, match="needs --mask"):
            take(filling, [tmp_path / "images"], targets)


def test_super_resolution_takes_no_mask(enlarging: Predictor, tmp_path: Path) -> None:
    (file,) = write_images(tmp_path, ["a.png"])
    with pytest.raises(DataError, match="leave --mask out"):
        take(enlarging, [file], [], masks=file)


def test_truths_alone_get_the_hole_of_the_training(filling: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"], side=24)
    item = take(filling, [], [tmp_path]).read("a")
    assert item.mask is not None and item.mask.sum() == 64
    assert (item.mask[8:16, 8:16] == 1).all()


def test_pages_of_a_stack_are_images_of_one_group(enlarging: Predictor, tmp_path: Path) -> None:
    pages = np.random.default_rng(0).integers(0, 65536, (3, 8, 8), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    write_images(tmp_path, ["z.png"])
    reader = take(enlarging, [tmp_path], [])
    assert list(reader.names) == ["stack/0000", "stack/0001", "stack/0002", "z"]
    assert reader.groups is not None and list(reader.groups) == ["stack.tif"] * 3 + ["z.png"]
    item = reader.read("stack/0002")
    np.testing.assert_allclose(item.image[0], pages[2] / 65535, atol=1e-6)


def test_groups_by_pattern_and_by_table(enlarging: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path / "p", ["p1_a.png", "p1_b.png", "p2_a.png"])
    reader = take(enlarging, [], [tmp_path / "p"], group_pattern=r"(p\d)_")
    assert reader.groups is not None and list(reader.groups) == ["p1", "p1", "p2"]
    (tmp_path / "g.csv").write_text("file,group\np1_a.png,x\np1_b.png,y\np2_a.png,x\n")
    reader = take(enlarging, [], [tmp_path / "p"], group_csv=tmp_path / "g.csv")
    assert reader.groups is not None and list(reader.groups) == ["x", "y", "x"]
    with pytest.raises(DataError, match="finds no group"):
        take(enlarging, [], [tmp_path / "p"], group_pattern=r"(q\d)_")
    with pytest.raises(ConfigError, match="round brackets"):
        take(enlarging, [], [tmp_path / "p"], group_pattern=r"p\d")


def test_the_order_depends_on_seed_and_names_alone(enlarging: Predictor, tmp_path: Path) -> None:
    names = [f"{k}.png" for k in range(12)]
    write_images(tmp_path, names, side=8)
    reader = take(enlarging, [], [tmp_path], group_pattern=r"(\d)")
    shuffled = reader.shuffled()
    assert sorted(shuffled.names) == sorted(reader.names) and list(shuffled.names) != list(reader.names)
    backwards = reader.only(list(reader.names)[::-1])
    assert list(backwards.shuffled().names) == list(shuffled.names)
    assert shuffled.groups is not None
    assert [name[0] for name in shuffled.names] == list(shuffled.groups)


def test_too_small_truths_are_refused(enlarging: Predictor, tmp_path: Path) -> None:
    Image.new("RGB", (3, 40)).save(tmp_path / "thin.png")
    reader = take(enlarging, [], [tmp_path])
    with pytest.raises(DataError, match="thin: is smaller than 4 pixels"):
        reader.read("thin")


def test_other_tasks_corrupt_by_name(tmp_path: Path) -> None:
    write_images(tmp_path / "in", ["a.png", "b.png"])
    reader = open_reader(small_package(tmp_path, "denoising"), [], [tmp_path / "in"])
    first, again = reader.read("a"), reader.read("a")
    np.testing.assert_array_equal(first.image, again.image)
    assert first.target is not None and 0.05 < np.std(first.image - first.target) < 0.15
