"""Images as people have them, whole and broken: each is read with everything in it, or refused by name."""

import contextlib
import json
import pickle
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as PillowImage
from PIL import ImageOps

from conffusion.errors import DataError
from conffusion.images.image import Image, kinds_of_warnings, open_images
from conffusion.images.pillow_file import JPEG_TAIL
from conffusion.images.raw_image import CMYK_WARNING
from conffusion.images.sources import open_source
from tests.images.files import pack, write_png16

RNG = np.random.default_rng(5)
COLOUR = RNG.integers(0, 256, (24, 31, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (24, 31, 4), dtype=np.uint16)
FLOATS = RNG.random((24, 31), dtype=np.float32)


def read(path: Path, **options: Any) -> Image:
    """The only image of a file."""
    originals = open_images(path, **options)
    assert len(originals) == 1
    return originals[0]


def check(image: Image, samples: np.ndarray, white: float, bit_depth: int) -> None:
    """Pixels are those samples, (H, W) or (H, W, C), divided by white."""
    samples = samples[..., None] if samples.ndim == 2 else samples
    assert image.pixels.dtype == np.float32
    np.testing.assert_allclose(image.pixels, np.moveaxis(samples.astype(float) / white, 2, 0), atol=6e-8)
    assert image.bit_depth == bit_depth


# ---- whole files


@pytest.mark.parametrize("suffix", ["png", "ppm", "bmp", "tif"])
def test_8_bit_colour_and_grey(tmp_path: Path, suffix: str) -> None:
    for samples in (COLOUR, COLOUR[..., 0]):
        PillowImage.fromarray(samples).save(tmp_path / f"a.{suffix}")
        image = read(tmp_path / f"a.{suffix}")
        check(image, samples, 255, 8)
        assert image.alpha is None
        assert image.suffix == (".tif" if suffix == "tif" else ".png")
        assert image.warnings == ()


@pytest.mark.parametrize("n_samples", [1, 2, 3, 4])
def test_16_bit_png_with_and_without_alpha(tmp_path: Path, n_samples: int) -> None:
    write_png16(tmp_path / "a.png", DEEP[..., :n_samples])
    image = read(tmp_path / "a.png")
    check(image, DEEP[..., : 3 if n_samples > 2 else 1], 65535, 16)
    if n_samples in (2, 4):
        assert image.alpha is not None
        np.testing.assert_allclose(image.alpha, DEEP[..., n_samples - 1] / 65535, atol=6e-8)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_files_of_archives_are_read_as_on_disk(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    write_png16(folder / "deep.png", DEEP[..., :3])
    PillowImage.fromarray(COLOUR).save(folder / "photo.jpg")
    tifffile.imwrite(folder / "stack.tif", DEEP.transpose(2, 0, 1), photometric="minisblack", compression="lzw")
    (folder / "notes.png").write_text("not an image\n")
    packed = open_source(pack(folder, kind))
    for name in ("deep.png", "photo.jpg", "stack.tif"):
        found, expected = open_images(packed.at(name)), open_images(folder / name)
        assert len(found) == len(expected) and found.sizes == expected.sizes
        for image, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(image.samples, other.samples)
    assert found.name(3) == f"{folder}.{kind}: stack.tif[3]"
    with pytest.raises(DataError, match=rf"^{folder}\.{kind}: notes\.png: is no image"):
        open_images(packed.at("notes.png"))


def test_8_bit_photographs_keep_their_grey_levels(tmp_path: Path) -> None:
    """What is resized in 8 bits is what Pillow decodes, to the last bit."""
    PillowImage.fromarray(COLOUR).save(tmp_path / "a.jpg", quality=90)
    image = read(tmp_path / "a.jpg")
    assert image.has_grey_levels
    np.testing.assert_array_equal(image.samples, np.asarray(PillowImage.open(tmp_path / "a.jpg")))
    assert not read(tmp_path / "a.jpg", value_range=(0, 300)).has_grey_levels


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "packbits", "tiff_deflate"])
def test_compressed_8_bit_tiff(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tif"
    for samples in (COLOUR, COLOUR[..., 0]):
        PillowImage.fromarray(samples).save(path, compression=compression)
        check(read(path), np.asarray(PillowImage.open(path)), 255, 8)


COMPRESSIONS = ["lzw", "zlib", "deflate", "lzma", "zstd", "packbits", "png", "jpeg2000"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compressed_16_bit_tiff(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tif"
    for samples in (DEEP[..., 0], DEEP[..., :3]):
        options = {} if compression in ("jpeg2000", "png") else {"byteorder": ">"}
        tifffile.imwrite(
            path, samples, compression=compression, photometric="rgb" if samples.ndim == 3 else "minisblack", **options
        )
        check(read(path), samples, 65535, 16)


@pytest.mark.parametrize("compression", ["lzw", "zstd", "zlib"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_compressed_floats(tmp_path: Path, compression: str, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", FLOATS.astype(dtype), compression=compression, tile=(16, 16))
    check(read(tmp_path / "a.tif"), FLOATS.astype(dtype), 1, 32)


@pytest.mark.parametrize("orientation", [3, 6])
def test_rotation_of_a_deep_tiff(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DEEP[..., :3], photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    check(read(path), np.rot90(DEEP[..., :3], {3: 2, 6: -1}[orientation]), 65535, 16)


@pytest.mark.parametrize("kind", ["P5", "P2", "P6", "P3"])
@pytest.mark.parametrize("largest", [65535, 1023])
def test_deep_pgm_and_ppm(tmp_path: Path, kind: str, largest: int) -> None:
    path = tmp_path / "a.pnm"
    values = np.minimum(DEEP[..., :3] if kind in ("P3", "P6") else DEEP[..., 0], largest)
    body = values.astype(">u2").tobytes() if kind in ("P5", "P6") else " ".join(map(str, values.ravel())).encode()
    path.write_bytes(f"{kind}\n# made by hand\n31 24\n{largest}\n".encode() + body)
    check(read(path), values, largest, 16)
    path.write_bytes(f"{kind}\n31 24\n300\n".encode() + body)
    with pytest.raises(DataError, match=r"above the largest one that its header states \(300\)"):
        read(path)


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    PillowImage.fromarray(COLOUR).save(tmp_path / "really_png.jpg", format="PNG")
    check(read(tmp_path / "really_png.jpg"), COLOUR, 255, 8)


def test_jpeg_with_thumbnail_and_trailing_bytes_counts_as_whole(tmp_path: Path) -> None:
    path, thumbnail = tmp_path / "phone.jpg", tmp_path / "thumbnail.jpg"
    PillowImage.fromarray(COLOUR[:8, :8].copy()).save(thumbnail)
    PillowImage.fromarray(COLOUR).save(path)
    whole = path.read_bytes()
    segment = b"\xff\xe1" + (len(thumbnail.read_bytes()) + 2).to_bytes(2, "big") + thumbnail.read_bytes()
    path.write_bytes(whole[:2] + segment + b"\xff" + whole[2:] + b"motion video")
    assert open_images(path).sizes == [(24, 31)]
    path.write_bytes(path.read_bytes() + bytes(3 * JPEG_TAIL))
    assert open_images(path).sizes == [(24, 31)]
    path.write_bytes(whole[:2] + segment + whole[2:-20])
    expect_error(path, "truncated")


def test_pages_of_a_stack_without_its_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(DEEP[..., 0], photometric="minisblack")
        tiff.write(COLOUR[::4, ::4], photometric="rgb", subfiletype=1)
        tiff.write(COLOUR, photometric="rgb")
        tiff.write(FLOATS, photometric="minisblack", compression="zlib")
    pages = open_images(path)
    assert len(pages) == 3
    assert [page.name for page in pages] == [f"{path}[{k}]" for k in range(3)]
    check(pages[0], DEEP[..., 0], 65535, 16)
    check(pages[1], COLOUR, 255, 8)
    check(pages[-1], FLOATS, 1, 32)
    assert [page.bit_depth for page in pages[1:]] == [8, 32]
    with pytest.raises(IndexError):
        pages[3]


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {"bigtiff": True}, {"byteorder": ">"}])
def test_stacks_of_other_programs(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "stack.ome.tif"
    stack = DEEP.transpose(2, 0, 1)
    tifffile.imwrite(path, stack, photometric="minisblack", **options)
    pages = open_images(path)
    assert len(pages) == 4
    for page, samples in zip(pages, stack, strict=True):
        check(page, samples, 65535, 16)


def test_planes_inverted_grey_and_fewer_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.moveaxis(DEEP[..., :3], 2, 0), photometric="rgb", planarconfig="separate")
    check(read(path), DEEP[..., :3], 65535, 16)
    tifffile.imwrite(path, DEEP[..., 0], photometric="miniswhite")
    check(read(path), 65535 - DEEP[..., 0], 65535, 16)
    tifffile.imwrite(path, FLOATS > 0.5, photometric="minisblack")
    check(read(path), FLOATS > 0.5, 1, 8)
    (tmp_path / "a.pgm").write_bytes(b"P5 31 24 1023\n" + (DEEP[..., 0] >> 6).astype(">u2").tobytes())
    check(read(tmp_path / "a.pgm"), DEEP[..., 0] >> 6, 1023, 16)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 250, 10))])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_palette(tmp_path: Path, transparency: int | bytes | None, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    image = PillowImage.fromarray(COLOUR).quantize(25)
    image.save(path, **({} if transparency is None else {"transparency": transparency}))
    found = read(path)
    check(found, np.asarray(image.convert("RGB")), 255, 8)
    if suffix == "png" and transparency is not None:
        assert found.alpha is not None
        np.testing.assert_allclose(
            found.alpha, np.asarray(PillowImage.open(path).convert("RGBA"))[..., 3] / 255, atol=6e-8
        )
    else:
        assert found.alpha is None


def test_one_transparent_colour_becomes_alpha(tmp_path: Path) -> None:
    PillowImage.fromarray(COLOUR).save(tmp_path / "a.png", transparency=tuple(int(value) for value in COLOUR[3, 4]))
    write_png16(tmp_path / "b.png", DEEP[..., :3])
    deep = (tmp_path / "b.png").read_bytes()
    key = chunk(b"tRNS", DEEP[3, 4, :3].astype(">u2").tobytes())
    (tmp_path / "b.png").write_bytes(deep[:33] + key + deep[33:])
    for name, samples, white in (("a.png", COLOUR, 255), ("b.png", DEEP[..., :3], 65535)):
        image = read(tmp_path / name)
        check(image, samples, white, 8 if white == 255 else 16)
        assert image.alpha is not None
        assert image.alpha[3, 4] == 0 and image.alpha.sum() == 24 * 31 - 1


def test_1_bit(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        PillowImage.fromarray(FLOATS > 0.5).save(tmp_path / name)
        check(read(tmp_path / name), FLOATS > 0.5, 1, 8)
    PillowImage.fromarray(FLOATS > 0.5).save(tmp_path / "a.tif", compression="group4")
    check(read(tmp_path / "a.tif"), FLOATS > 0.5, 1, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_rotation_is_applied_and_its_tag_removed(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = PillowImage.Exif()
    exif[274], exif[271] = orientation, "Maker"
    PillowImage.fromarray(COLOUR).save(path, exif=exif, dpi=(100, 200))
    image = read(path)
    check(image, np.asarray(ImageOps.exif_transpose(PillowImage.open(path))), 255, 8)
    assert image.metadata.resolution is not None
    across, down = image.metadata.resolution.per("inch")
    expected = (200, 100) if orientation >= 5 else (100, 200)
    assert (float(across), float(down)) == pytest.approx(expected, rel=1e-3)
    if suffix != "tif":
        kept = PillowImage.Exif()
        assert image.metadata.exif is not None
        kept.load(b"Exif\0\0" + image.metadata.exif)
        assert dict(kept) == {271: "Maker"}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float32", "float64"])
def test_zarr_arrays(tmp_path: Path, zarr_format: Any, dtype: str) -> None:
    white = {"uint8": 255, ">u2": 65535}.get(dtype, 1)
    values = (RNG.random((4, 3, 6, 7)) * white).astype(dtype)
    zarr.create_array(store=str(tmp_path / "many.zarr"), data=values, zarr_format=zarr_format)
    zarr.create_array(store=str(tmp_path / "one.zarr"), data=values[2, :1], zarr_format=zarr_format)
    images = open_images(tmp_path / "many.zarr")
    assert len(images) == 4
    check(images[3], np.moveaxis(values[3], 0, 2), white, {255: 8, 65535: 16, 1: 32}[white])
    assert images[3].suffix == ".zarr"
    check(read(tmp_path / "one.zarr"), values[2, 0], white, images[0].bit_depth)


def test_zarr_groups(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    with pytest.raises(DataError, match=r"a\.zarr: is a group with the arrays: none"):
        open_images(tmp_path / "a.zarr")
    group.create_array("first", data=np.zeros((1, 4, 5), np.uint8))
    assert read(tmp_path / "a.zarr").size == (4, 5)
    group.create_array("other", data=np.zeros((2, 3), np.uint8))
    with pytest.raises(DataError, match="first, other; expected a single one, or one called 'image'"):
        open_images(tmp_path / "a.zarr")
    group.create_array("image", data=np.zeros((3, 6, 7), np.uint8))
    assert read(tmp_path / "a.zarr").size == (6, 7)


@pytest.mark.parametrize(
    "name", ["été 写真 (1) #2.png", "--mask.png", "-o.tif", "a;b|c&d$e.png", "100% {x}.tif", "no suffix"]
)
def test_odd_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / "sous-dossier été" / name
    path.parent.mkdir()
    PillowImage.fromarray(COLOUR).save(path, format="TIFF" if name.endswith("tif") else "PNG")
    check(read(path), COLOUR, 255, 8)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "bmp", "ppm"])
def test_one_pixel(tmp_path: Path, suffix: str) -> None:
    for samples in (COLOUR[:1, :1], COLOUR[:1, :1, 0], COLOUR[:1], COLOUR[:, :1, 0]):
        path = tmp_path / f"a.{suffix}"
        PillowImage.fromarray(np.ascontiguousarray(samples)).save(path)
        check(read(path), np.asarray(PillowImage.open(path)), 255, 8)


# ---- ranges of values


def test_floats_outside_0_1_need_a_range(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    counts = FLOATS * 50 - 20
    counts[0, 0], counts[0, 1] = -20, 30
    tifffile.imwrite(path, counts)
    with pytest.raises(DataError, match=r"a\.tif: values of type float32 from -20 to 30 .*--value-range LOW HIGH"):
        read(path)
    image = read(path, value_range=(-20, 30))
    check(image, counts + 20, 50, 32)
    assert image.warnings == ()


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32"])
def test_integers_without_a_white_need_a_range(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.tif"
    values = np.arange(12, dtype=dtype).reshape(3, 4) * 100
    tifffile.imwrite(path, values)
    with pytest.raises(DataError, match=f"{dtype} from 0 to 1,?1?00 have no natural range.*--value-range"):
        read(path)
    check(read(path, value_range=(0, 2000)), values, 2000, 32)


def test_range_of_a_12_bit_camera(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = DEEP[..., 0] >> 4
    tifffile.imwrite(path, values)
    assert read(path).warnings == (
        f"16-bit values reach only {values.max()} of 65535; if the camera counts to 4095, give --value-range 0 4095",
    )
    image = read(path, value_range=(0, 4095))
    check(image, values, 4095, 16)
    assert image.warnings == ()


def test_few_hot_pixels_are_clipped_and_counted_many_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.full((50, 60), 500, np.uint16)
    values[0, :2], values[1, 0] = 4000, 90
    tifffile.imwrite(path, values)
    image = read(path, value_range=(100, 1100))
    assert image.warnings == ("3 of 3000 values lie outside --value-range 100 1100: 90 to 4000; they were clipped",)
    assert (image.pixels[0, 0, 0], image.pixels[0, 1, 0], image.pixels[0, 1, 1]) == (1, 0, np.float32(0.4))
    values[2, 0] = 4000
    tifffile.imwrite(path, values)
    with pytest.raises(DataError, match="4 of 3000 values lie outside .*choose a range that holds them"):
        read(path, value_range=(100, 1100))


@pytest.mark.parametrize("value_range", [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
def test_senseless_ranges(tmp_path: Path, value_range: tuple[float, float]) -> None:
    with pytest.raises(DataError, match="--value-range .*LOW below HIGH"):
        open_images(tmp_path / "a.tif", value_range=value_range)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_values_that_are_not_finite(tmp_path: Path, value: float, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    values = FLOATS.copy()
    values[2, 7], values[20, 1] = value, value
    if suffix == ".tif":
        tifffile.imwrite(path, values)
    else:
        zarr.create_array(store=str(path), data=values[None])
    for value_range in (None, (0.0, 2.0)):
        with pytest.raises(DataError, match=r"2 of 744 values are not finite \(the first at row 2, column 7\)"):
            read(path, value_range=value_range)


# ---- broken files


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def expect_error(path: Path, message: str, **options: Any) -> None:
    """Opening fails, and the message starts with the file's name."""
    with pytest.raises(DataError, match=message) as caught:
        open_images(path, **options)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "deep.png", "deep.tif", "lzw.tif"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9])
def test_truncated_files_are_refused_when_opened(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    if name == "deep.png":
        write_png16(path, DEEP[..., :3])
    elif name == "deep.tif":
        tifffile.imwrite(path, DEEP.transpose(2, 0, 1), photometric="minisblack")
    else:
        PillowImage.fromarray(COLOUR).save(path, **({"compression": "tiff_lzw"} if name == "lzw.tif" else {}))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    expect_error(path, "truncated|cannot be read|is no image")


@pytest.mark.parametrize("name", ["a.bmp", "a.ppm", "deep.pgm"])
def test_other_truncated_files_are_refused_when_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "deep.pgm":
        path.write_bytes(b"P5 31 24 65535\n" + DEEP[..., 0].tobytes())
    else:
        PillowImage.fromarray(COLOUR).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated"):
        read(path)


def test_damage_within_is_found_when_read(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        path = tmp_path / name
        PillowImage.fromarray(COLOUR).save(path, **({"compression": "tiff_deflate"} if name == "a.tif" else {}))
        content = bytearray(path.read_bytes())
        content[200:260] = bytes(60)
        path.write_bytes(bytes(content))
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: cannot be read as an image")


def test_no_images(tmp_path: Path) -> None:
    expect_error(tmp_path / "gone.png", "is missing")
    expect_error(tmp_path, "is a folder")
    (tmp_path / "empty.png").touch()
    expect_error(tmp_path / "empty.png", "is no image in PNG, JPEG, TIFF")
    (tmp_path / "text.tif").write_text("not an image\n")
    expect_error(tmp_path / "text.tif", "is no image in PNG, JPEG, TIFF")
    PillowImage.fromarray(COLOUR).save(tmp_path / "a.gif")
    expect_error(tmp_path / "a.gif", "is no image in PNG, JPEG, TIFF.*convert it")


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_rgb_with_a_warning(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"print.{suffix}"
    PillowImage.new("CMYK", (20, 10), (0, 255, 255, 0)).save(path, icc_profile=b"of printing inks")
    image = read(path)
    assert image.size == (10, 20) and image.alpha is None
    assert image.pixels[0].min() > 0.9 and image.pixels[1:].max() < 0.1
    assert image.warnings == (CMYK_WARNING,)
    assert image.metadata.icc_profile is None and "extrasamples" not in image.metadata.tiff_layout
    tifffile.imwrite(tmp_path / "deep.tif", DEEP, photometric="separated")
    expect_error(tmp_path / "deep.tif", "unsupported type for the colour model SEPARATED")


def test_lab_complex_and_many_channels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    PillowImage.fromarray(COLOUR).convert("RGB").save(path)
    tifffile.imwrite(path, COLOUR, photometric="cielab")
    expect_error(path, "colour model CIELAB")
    tifffile.imwrite(path, FLOATS.astype(np.complex64))
    expect_error(path, "unsupported type")
    tifffile.imwrite(
        path, RNG.integers(0, 9, (8, 9, 5), dtype=np.uint8), photometric="minisblack", planarconfig="contig"
    )
    expect_error(path, "has 5 samples per pixel .*pages of a stack")
    tifffile.imwrite(path, RNG.integers(0, 9, (8, 9), dtype=np.uint64))
    with pytest.raises(DataError, match="uint64 are not supported"):
        read(path, value_range=(0, 9))


def test_alpha_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DEEP, photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["ExtraSamples"].overwrite(7)
    expect_error(path, "does not say that the last one is an alpha .*kind 7")


@pytest.mark.parametrize("n_samples", [2, 4])
def test_a_further_channel_is_no_alpha(tmp_path: Path, n_samples: int) -> None:
    path = tmp_path / "a.tif"
    photometric = "rgb" if n_samples == 4 else "minisblack"
    options: dict[str, Any] = {"photometric": photometric, "planarconfig": "contig"}
    tifffile.imwrite(path, DEEP[..., :n_samples], extrasamples=["unspecified"], **options)
    expect_error(path, "may be a further channel, such as near infrared")
    tifffile.imwrite(path, DEEP[..., :n_samples], extrasamples=["unassalpha"], **options)
    assert read(path).alpha is not None


def test_one_bad_page_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(COLOUR, photometric="rgb")
        tiff.write(COLOUR, photometric="cielab")
    expect_error(path, "page 1: has the colour model CIELAB")


def test_imagej_stack_behind_one_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DEEP[..., 0], description="ImageJ=1.54f\nimages=4000\nslices=4000\n", metadata=None)
    expect_error(path, "holds 4000 images behind one header")


@pytest.mark.parametrize("shape", [(5, 24, 31), (2, 3, 24, 31)])
def test_stack_that_tifffile_wrote_behind_one_header_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path, stack = tmp_path / "a.tif", np.zeros(shape, np.uint16)
    tifffile.imwrite(path, stack, photometric="minisblack", truncate=True)
    expect_error(path, f"holds {np.prod(shape[:-2])} images behind one header.*truncate=True")
    tifffile.imwrite(path, stack, photometric="minisblack")
    assert len(open_images(path)) == np.prod(shape[:-2])


@pytest.mark.parametrize("shape", [(5, 4, 5), (4, 5), (2, 2, 4, 5), (0, 3, 4, 5), (3, 0, 4)])
def test_zarr_of_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    zarr.create_array(
        store=str(tmp_path / "a.zarr"), shape=shape, dtype="uint8", chunks=tuple(max(n, 1) for n in shape)
    )
    expect_error(tmp_path / "a.zarr", r"expected \(C, H, W\)|holds no pixels")


def test_zarr_with_damaged_chunks_or_foreign_values(tmp_path: Path) -> None:
    zarr.create_array(store=str(tmp_path / "a.zarr"), data=DEEP.transpose(2, 0, 1)[:3])
    (data,) = [file for file in (tmp_path / "a.zarr" / "c").rglob("*") if file.is_file()]
    data.write_bytes(data.read_bytes()[:50])
    with pytest.raises(DataError, match=r"a\.zarr: cannot be read"):
        read(tmp_path / "a.zarr")
    zarr.create_array(store=str(tmp_path / "b.zarr"), data=np.zeros((1, 4, 5), bool))
    expect_error(tmp_path / "b.zarr", "values of type bool")


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "codecs",
    [
        {"compressor": {"id": "pickle"}, "filters": None},
        {"compressor": None, "filters": [{"id": "pickle"}]},
        {"compressor": {"id": "zlib", "level": 1}, "filters": [{"id": "delta", "dtype": "|u1"}, {"id": "pickle"}]},
    ],
)
def test_zarr_runs_no_code(tmp_path: Path, codecs: dict[str, Any]) -> None:
    folder, evil = tmp_path / "a.zarr", tmp_path / "evil"
    folder.mkdir()
    layout = {"shape": [3, 4, 5], "chunks": [3, 4, 5], "dtype": "|u1", "fill_value": 0, "order": "C", "zarr_format": 2}
    (folder / ".zarray").write_text(json.dumps(layout | codecs))
    (folder / "0.0.0").write_bytes(pickle.dumps(Payload(evil)))
    with pytest.raises(DataError):
        read(folder)
    assert not evil.exists()
    pickle.loads((folder / "0.0.0").read_bytes())
    assert evil.exists()


# ---- bombs


def png_of(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunks)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def test_headers_that_promise_gigapixels(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_of(60_000, 50_000))
    expect_error(tmp_path / "a.png", r"60000x50000 = 3,000,000,000 pixels, more than .*--max-pixels 3000000000")
    PillowImage.fromarray(COLOUR).save(tmp_path / "a.bmp")
    content = bytearray((tmp_path / "a.bmp").read_bytes())
    content[18:26] = struct.pack("<ii", 60_000, 50_000)
    (tmp_path / "a.bmp").write_bytes(bytes(content))
    expect_error(tmp_path / "a.bmp", "--max-pixels")
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as tiff:
        tiff.write(COLOUR[..., 0])
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages[0].tags["ImageWidth"].overwrite(60_000)
        tiff.pages[0].tags["ImageLength"].overwrite(50_000)
    expect_error(tmp_path / "a.tif", "--max-pixels")
    zarr.create_array(store=str(tmp_path / "a.zarr"), shape=(3, 60_000, 50_000), chunks=(3, 9, 9), dtype="uint8")
    expect_error(tmp_path / "a.zarr", "--max-pixels")
    zarr.create_array(store=str(tmp_path / "b.zarr"), shape=(3, 9, 9), chunks=(3, 60_000, 50_000), dtype="uint8")
    expect_error(tmp_path / "b.zarr", "chunks of 9,000,000,000 values")


def test_limit_is_ours_not_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_png16(tmp_path / "deep.png", DEEP[..., :3])
    PillowImage.fromarray(COLOUR).save(tmp_path / "a.jpg")
    tifffile.imwrite(tmp_path / "a.tif", DEEP[..., 0], compression="zlib")
    PillowImage.fromarray(DEEP[..., 0]).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", 100)
    for name in ("deep.png", "a.jpg", "a.tif", "lzw.tif"):
        with pytest.raises(PillowImage.DecompressionBombError):
            PillowImage.open(tmp_path / name)
        assert read(tmp_path / name, max_pixels=744).size == (24, 31)
        expect_error(tmp_path / name, r"31x24 = 744 pixels, more than the 743 allowed", max_pixels=743)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_text_of_a_png_that_unpacks_without_end(tmp_path: Path, kind: bytes) -> None:
    packed = zlib.compress(bytes(50_000_000))
    head = {b"zTXt": b"Comment\0\0", b"iCCP": b"ICC\0\0", b"iTXt": b"Comment\0\1\0\0\0"}[kind]
    (tmp_path / "a.png").write_bytes(png_of(8, 8, chunk(kind, head + packed)))
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image \(.*[Dd]ecompressed"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("compression", ["zlib", "lzma", "lzw", "zstd", "packbits"])
def test_tiff_that_unpacks_to_more_than_it_says(tmp_path: Path, compression: str) -> None:
    """Whether it is refused or read as far as it says, what its strips unpack to is never in memory as a whole."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.zeros((9_000, 9_000), np.uint8), compression=compression, rowsperstrip=9_000, metadata=None
    )
    shrink(path, 90)
    tracemalloc.start()
    with contextlib.suppress(DataError):
        assert read(path).size == (90, 90)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20_000_000


@pytest.mark.parametrize("compression", ["jpeg2000", "png", "webp"])
def test_tiff_of_images_with_a_header_of_their_own(tmp_path: Path, compression: str) -> None:
    path, large = tmp_path / "a.tif", np.zeros((9_000, 9_000, 3), np.uint8)
    tifffile.imwrite(path, large, compression=compression, rowsperstrip=9_000, photometric="rgb", metadata=None)
    shrink(path, 90)
    with pytest.raises(DataError, match="unpacks to far more than its header says"):
        read(path)


def test_tiff_with_a_compression_whose_header_is_not_known(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", COLOUR, compression="jpegxr", photometric="rgb")
    with pytest.raises(DataError, match=r"a\.tif: has a strip compressed as JPEGXR.* cannot be read .*use deflate"):
        read(tmp_path / "a.tif")


def shrink(path: Path, side: int) -> None:
    """Make the tags of a TIFF lie about its size."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages[0].tags[tag].overwrite(side)


def test_tiff_with_tiles_beyond_measure(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOUR[..., 0], tile=(16, 16))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["TileWidth"].overwrite(32_000)
        tiff.pages[0].tags["TileLength"].overwrite(32_000)
    expect_error(path, "far larger than the image")


def test_warnings_are_counted_by_kind() -> None:
    warnings = ["3 of 40 values lie outside", "17 of 80 values lie outside", "colours may be off"]
    assert kinds_of_warnings(warnings) == {"3 of 40 values lie outside": 2, "colours may be off": 1}
