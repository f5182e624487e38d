from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from conffusion.errors import DataError
from conffusion.images.masks import read_mask
from tests.images.files import write_png16

HOLE = np.zeros((40, 60), bool)
HOLE[8:24, 8:32] = True
WHITE = (HOLE * 255).astype(np.uint8)


def check(path: Path) -> None:
    mask = read_mask(path, 40, 60)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, HOLE)


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P"])
@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_kinds_of_mask(tmp_path: Path, mode: str, suffix: str) -> None:
    Image.fromarray(WHITE).convert(mode).save(tmp_path / f"a.{suffix}")
    check(tmp_path / f"a.{suffix}")


def test_deep_masks(tmp_path: Path) -> None:
    write_png16(tmp_path / "a.png", (HOLE * 65535).astype(np.uint16)[..., None])
    check(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", HOLE.astype(np.float32))
    check(tmp_path / "a.tif")


def test_boolean_array_that_tifffile_marks_as_0_is_white(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", HOLE)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages.first.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    check(tmp_path / "a.tif")


def test_0_is_white_counts_where_other_programs_say_so(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ~HOLE, photometric="miniswhite", software="scanner")
    check(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", 255 - WHITE, photometric="miniswhite")
    check(tmp_path / "a.tif")


def test_transparent_counts_as_black(tmp_path: Path) -> None:
    painted = np.dstack([np.full((40, 60, 3), 255, np.uint8), WHITE])  # white strokes on nothing
    Image.fromarray(painted).save(tmp_path / "a.png")
    check(tmp_path / "a.png")


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_mask(tmp_path: Path, quality: int) -> None:
    for mode in ("L", "RGB"):
        Image.fromarray(WHITE).convert(mode).save(tmp_path / "a.jpg", quality=quality)
        check(tmp_path / "a.jpg")


def test_jpeg_mask_with_edges_off_its_blocks(tmp_path: Path) -> None:
    hole = np.zeros((40, 60), bool)
    hole[11:22, 13:30] = True
    Image.fromarray((hole * 255).astype(np.uint8)).save(tmp_path / "a.jpg", quality=75)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "a.jpg")))) > 10
    np.testing.assert_array_equal(read_mask(tmp_path / "a.jpg", 40, 60), hole)


def test_rotation_of_the_mask_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(WHITE))).save(tmp_path / "a.png", exif=exif)
    check(tmp_path / "a.png")


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    Image.fromarray(np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1))).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: 1280 of 2400 pixels are neither black nor white"):
        read_mask(tmp_path / "a.png", 40, 60)
    red = np.zeros((40, 60, 3), np.uint8)
    red[8:12, 8:12, 0] = 255  # little, but all there is
    Image.fromarray(red).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="16 of 2400 pixels are neither black nor white"):
        read_mask(tmp_path / "a.png", 40, 60)


def test_wrong_size_names_both(tmp_path: Path) -> None:
    Image.fromarray(WHITE).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: the mask has 60x40 pixels, but its image has 40x60"):
        read_mask(tmp_path / "a.png", 60, 40)


def test_masks_that_mark_nothing(tmp_path: Path) -> None:
    for samples, largest in ((np.zeros((4, 5), np.uint8), "0"), (np.ones((4, 5), np.uint8), "0.00392")):
        Image.fromarray(samples).save(tmp_path / "a.png")
        with pytest.raises(DataError, match=rf"a\.png: marks nothing \(the largest value is {largest} of 1\)"):
            read_mask(tmp_path / "a.png", 4, 5)


def test_no_masks(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([WHITE, WHITE]), photometric="minisblack")
    with pytest.raises(DataError, match=r"a\.tif: holds 2 images; a mask is a single one"):
        read_mask(tmp_path / "a.tif", 40, 60)
    tifffile.imwrite(tmp_path / "lab.tif", np.zeros((40, 60, 3), np.uint8), photometric="cielab")
    with pytest.raises(DataError, match=r"lab\.tif: has the colour model CIELAB"):
        read_mask(tmp_path / "lab.tif", 40, 60)
    with pytest.raises(DataError, match=r"gone\.png: is missing"):
        read_mask(tmp_path / "gone.png", 40, 60)
    Image.fromarray(WHITE).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="--max-pixels"):
        read_mask(tmp_path / "b.png", 40, 60, max_pixels=100)
