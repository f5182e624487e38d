from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from conffusion.data.folder import read_image
from conffusion.errors import DataError
from conffusion.images import reading
from conffusion.images.resize import PixelArray
from conffusion.images.sources import FolderSource, open_source
from tests.images.files import pack, write_png16

RNG = np.random.default_rng(5)
COLOUR = RNG.integers(0, 256, (24, 31, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (24, 31, 4), dtype=np.uint16)


def channels_first(samples: np.ndarray, largest: int) -> np.ndarray:
    return (samples.astype(np.float64) / largest).transpose(2, 0, 1)


def read_pixels(path: Path) -> PixelArray:
    return reading.read_pixels(FolderSource(path.parent), path.name)


def read_size(path: Path) -> tuple[int, int]:
    return reading.read_size(FolderSource(path.parent), path.name)


def expect(path: Path, samples: np.ndarray, largest: int = 255) -> None:
    image = read_image(path)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, channels_first(samples, largest), atol=1e-6)
    archive = open_source(pack(path.parent, "tar"))
    np.testing.assert_array_equal(reading.read_pixels(archive, path.name), read_pixels(path))
    assert read_size(path) == reading.read_size(archive, path.name) == samples.shape[:2]


def grey(samples: np.ndarray) -> np.ndarray:
    return np.repeat(samples[..., None], 3, axis=2)


@pytest.mark.parametrize("suffix", ["png", "ppm", "bmp", "tif", "TIFF"])
def test_8_bit_colour(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"colour.{suffix}"
    Image.fromarray(COLOUR).save(path)
    expect(path, COLOUR)


@pytest.mark.parametrize("suffix", ["png", "pgm", "bmp", "tiff"])
def test_8_bit_grey_is_replicated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(COLOUR[..., 0]).save(path)
    expect(path, grey(COLOUR[..., 0]))


def test_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(COLOUR).save(path, quality=90)
    expect(path, np.asarray(Image.open(path)))


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (20, 10), (0, 255, 255, 0)).save(path)
    assert read_image(path).shape == (3, 10, 20)
    assert read_image(path)[0].min() > 0.9 and read_image(path)[1:].max() < 0.1


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "tiff_deflate", "packbits"])
def test_8_bit_tiff_compressions(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "scan.tif"
    Image.fromarray(COLOUR).save(path, compression=compression)
    expect(path, np.asarray(Image.open(path)))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_not_blended(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "alpha.png"
    Image.fromarray(np.dstack([COLOUR, np.zeros((24, 31), np.uint8)])).convert(mode).save(path)
    opaque = COLOUR if mode == "RGBA" else grey(np.asarray(Image.fromarray(COLOUR).convert("L")))
    expect(path, opaque)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 250, 10))])
def test_palette(tmp_path: Path, transparency: int | bytes | None) -> None:
    path = tmp_path / "palette.png"
    image = Image.fromarray(COLOUR).quantize(25)
    image.save(path, **({} if transparency is None else {"transparency": transparency}))
    expect(path, np.asarray(image.convert("RGB")))


def test_bilevel(tmp_path: Path) -> None:
    path = tmp_path / "fax.png"
    black_white = COLOUR[..., 0] > 127
    Image.fromarray(black_white).save(path)
    expect(path, grey(black_white.astype(np.uint8)), largest=1)


@pytest.mark.parametrize("n_samples", [1, 2, 3, 4])
def test_16_bit_png_keeps_all_bits(tmp_path: Path, n_samples: int) -> None:
    path = tmp_path / "deep.png"
    write_png16(path, DEEP[..., :n_samples])
    expect(path, DEEP[..., :3] if n_samples > 2 else grey(DEEP[..., 0]), largest=65535)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("n_samples", [1, 3, 4])
def test_16_bit_tiff(tmp_path: Path, n_samples: int, compression: str | None) -> None:
    path = tmp_path / "deep.tif"
    samples = DEEP[..., :n_samples] if n_samples > 1 else DEEP[..., 0]
    photometric = "rgb" if n_samples > 1 else "minisblack"
    tifffile.imwrite(path, samples, photometric=photometric, compression=compression)
    expect(path, DEEP[..., :3] if n_samples > 1 else grey(DEEP[..., 0]), largest=65535)


def test_16_bit_tiff_in_planes_big_endian_or_inverted(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    planes = np.moveaxis(DEEP[..., :3], 2, 0)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", byteorder=">")
    expect(path, DEEP[..., :3], largest=65535)
    tifffile.imwrite(path, DEEP[..., 0], photometric="miniswhite")
    expect(path, grey(65535 - DEEP[..., 0]), largest=65535)


def test_float_tiff_must_lie_in_0_1(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    values = COLOUR.astype(np.float32) / 255
    tifffile.imwrite(path, values, photometric="rgb")
    expect(path, COLOUR)
    tifffile.imwrite(path, values * 2, photometric="rgb")
    with pytest.raises(DataError, match=r"float\.tif.*floats in \[0, 1\]"):
        read_image(path)


@pytest.mark.parametrize("content", [DEEP[..., 0].astype(np.int32), DEEP[..., 0].astype(np.uint32)])
def test_other_tiff_samples_are_refused(tmp_path: Path, content: np.ndarray) -> None:
    path = tmp_path / "counts.tif"
    tifffile.imwrite(path, content)
    with pytest.raises(DataError, match=r"counts\.tif: TIFF samples of type u?int32"):
        read_image(path)


@pytest.mark.parametrize("kind", ["P5", "P2"])
@pytest.mark.parametrize("largest", [65535, 1023])
def test_16_bit_pgm(tmp_path: Path, kind: str, largest: int) -> None:
    path = tmp_path / "deep.pgm"
    values = np.minimum(DEEP[..., 0], largest)
    body = values.astype(">u2").tobytes() if kind == "P5" else " ".join(str(v) for v in values.ravel()).encode()
    path.write_bytes(f"{kind}\n# made by hand\n31 24\n{largest}\n".encode() + body)
    expect(path, grey(values), largest=largest)


def test_16_bit_ppm(tmp_path: Path) -> None:
    path = tmp_path / "deep.ppm"
    path.write_bytes(b"P6 31 24 65535\n" + DEEP[..., :3].astype(">u2").tobytes())
    expect(path, DEEP[..., :3], largest=65535)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_rotation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(COLOUR).save(path, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    np.testing.assert_array_equal(read_pixels(path), upright)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_rotation_of_deep_tiff(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "turned.tif"
    tifffile.imwrite(path, DEEP[..., :3], photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    turns = {1: 0, 3: 2, 6: -1}[orientation]
    np.testing.assert_allclose(read_pixels(path), np.rot90(DEEP[..., :3], turns) / 65535, atol=1e-6)


def test_names_with_spaces_and_other_scripts(tmp_path: Path) -> None:
    path = tmp_path / "sous-dossier été" / "写真 (1) #2.png"
    path.parent.mkdir()
    Image.fromarray(COLOUR).save(path)
    expect(path, COLOUR)


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "really_png.jpg"
    Image.fromarray(COLOUR).save(path, format="PNG")
    expect(path, COLOUR)


def damaged(folder: Path, name: str) -> Path:
    """A file of that name that ends too early, or is no image at all."""
    path = folder / name
    suffix = path.suffix.lstrip(".")
    if path.stem == "text":
        path.write_text("not an image\n")
    elif path.stem == "deep" and suffix == "png":
        write_png16(path, DEEP[..., :3])
    elif path.stem == "deep" and suffix == "tif":
        tifffile.imwrite(path, DEEP[..., :3], photometric="rgb")
    elif path.stem == "deep":
        path.write_bytes(b"P5 31 24 65535\n" + DEEP[..., 0].tobytes())
    else:
        Image.fromarray(COLOUR).save(path)
    if path.stem != "text":
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


NAMES = ["cut.jpg", "cut.png", "cut.tif", "cut.ppm", "cut.bmp", "deep.png", "deep.tif", "deep.pgm"]


@pytest.mark.parametrize("name", [*NAMES, "text.png", "text.tif", "text.pgm"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    path = damaged(tmp_path, name)
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    archive = pack(tmp_path, "zip")
    with pytest.raises(DataError) as caught:
        reading.read_pixels(open_source(archive), name)
    assert str(caught.value).startswith(f"{archive}: {name}: ")


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "deep.png", "text.png", "text.tif"])
def test_headers_tell_of_most_damage(tmp_path: Path, name: str) -> None:
    path = damaged(tmp_path, name)
    with pytest.raises(DataError) as caught:
        read_size(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_jpeg_with_thumbnail_and_trailing_bytes_counts_as_whole(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    thumbnail = tmp_path / "thumbnail.jpg"
    Image.fromarray(COLOUR[:8, :8].copy()).save(thumbnail)
    Image.fromarray(COLOUR).save(path)
    whole = path.read_bytes()
    segment = b"\xff\xe1" + (len(thumbnail.read_bytes()) + 2).to_bytes(2, "big") + thumbnail.read_bytes()
    path.write_bytes(whole[:2] + segment + b"\xff" + whole[2:] + b"motion video")
    assert read_size(path) == (24, 31)
    path.write_bytes(path.read_bytes() + bytes(3 * reading.JPEG_TAIL))
    assert read_size(path) == (24, 31)
    path.write_bytes(whole[:2] + segment + whole[2:-20])
    with pytest.raises(DataError, match=r"phone\.jpg: truncated"):
        read_size(path)


def test_missing_file_folder_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: is missing"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png: cannot be read"):
        read_size(tmp_path / "empty.png")


def test_unsupported_format(tmp_path: Path) -> None:
    path = tmp_path / "moving.png"
    Image.fromarray(COLOUR).save(path, format="GIF")
    with pytest.raises(DataError, match=r"moving\.png: cannot be read"):
        read_image(path)


def test_too_small(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.fromarray(COLOUR).save(path)
    assert read_image(path, min_side=24).shape == (3, 24, 31)
    with pytest.raises(DataError, match=r"small\.png: is too small: 31x24 pixels.*at least 25"):
        read_image(path, min_side=25)
