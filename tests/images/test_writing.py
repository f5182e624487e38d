"""Results like an original: read back by Pillow and tifffile with its mode, depth, profile and resolution."""

import contextlib
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as PillowImage
from PIL import ImageCms

from conffusion.errors import ShapeError, StoreError
from conffusion.images.image import Image, open_images
from conffusion.images.writing import Rounding, write_like
from tests.images.files import write_png16
from tests.store.test_faults import left_in, mounted

RNG = np.random.default_rng(6)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (20, 30, 4), dtype=np.uint16)
FLOATS = RNG.random((20, 30), dtype=np.float32)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "down", "up")


def read(path: Path, **options: Any) -> Image:
    return open_images(path, **options)[0]


def make(folder: Path, name: str) -> Path:
    """A file of a kind that its name tells."""
    path, deep = folder / name, DEEP[..., 0]
    stem = path.stem
    if stem.startswith("png16"):
        write_png16(path, DEEP[..., : int(stem[-1])])
    elif stem in ("L", "RGB", "RGBA", "LA", "P", "1"):
        rgba = PillowImage.fromarray(np.dstack([COLOUR, DEEP[..., 3].astype(np.uint8)]))
        (rgba.convert("RGB").quantize(20) if stem == "P" else rgba.convert(stem)).save(path)
    elif stem == "alpha16":
        tifffile.imwrite(path, DEEP, photometric="rgb", extrasamples=["unassalpha"])
    else:
        values: dict[str, Any] = {
            "grey16": deep,
            "colour16": DEEP[..., :3],
            "grey32": FLOATS,
            "grey64": FLOATS.astype(float) ** 2,
            "half": FLOATS.astype(np.float16),
            "colour32": RNG.random((20, 30, 3), dtype=np.float32),
            "inverted8": COLOUR[..., 0],
            "inverted16": deep,
            "deflate16": deep,
            "end16": deep,
        }
        photometric = "rgb" if stem.startswith("colour") else "miniswhite" if "inverted" in stem else "minisblack"
        options: dict[str, Any] = {"deflate16": {"compression": "zlib"}, "end16": {"byteorder": ">"}}.get(stem, {})
        tifffile.imwrite(path, values[stem], photometric=photometric, **options)
    return path


PNGS = ["L.png", "RGB.png", "RGBA.png", "LA.png", "png16-1.png", "png16-2.png", "png16-3.png", "png16-4.png"]
TIFFS = ["L.tif", "RGB.tif", "RGBA.tif", "grey16.tif", "colour16.tif", "alpha16.tif", "deflate16.tif", "end16.tif"]
FLOAT_TIFFS = ["grey32.tif", "grey64.tif", "half.tif", "colour32.tif"]
OTHERS = ["P.png", "1.png", "1.tif", "L.jpg", "RGB.jpg", "RGB.bmp", "L.ppm", "inverted8.tif", "inverted16.tif"]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", [*PNGS, *TIFFS, *FLOAT_TIFFS, *OTHERS])
def test_own_pixels_come_back_the_same(tmp_path: Path, name: str, rounding: Rounding) -> None:
    original = read(make(tmp_path, name))
    path = write_like(original, tmp_path / "out" / "x.y", original.pixels, rounding=rounding)
    assert path == tmp_path / "out" / f"x.y{'.tif' if name.endswith('tif') else '.png'}"
    again = read(path)
    np.testing.assert_array_equal(again.pixels, original.pixels)
    assert (again.bit_depth, again.alpha is None) == (original.bit_depth, original.alpha is None)
    if again.alpha is not None:
        np.testing.assert_array_equal(again.alpha, original.alpha)


@pytest.mark.parametrize("name", [*PNGS, "L.tif", "RGB.tif", "RGBA.tif", "grey16.tif", "inverted16.tif"])
def test_pillow_reads_the_same_mode_and_values(tmp_path: Path, name: str) -> None:
    path = make(tmp_path, name)
    again = write_like(read(path), tmp_path / "again", read(path).pixels)
    with PillowImage.open(path) as before, PillowImage.open(again) as after:
        assert (after.mode, after.size, after.format) == (before.mode, before.size, before.format)
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before))


@pytest.mark.parametrize("name", [*TIFFS, *FLOAT_TIFFS, "inverted8.tif", "inverted16.tif"])
def test_tifffile_reads_the_same_samples_and_layout(tmp_path: Path, name: str) -> None:
    path = make(tmp_path, name)
    again = write_like(read(path), tmp_path / "again", read(path).pixels)
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(again) as after:
        old, new = before.pages.first, after.pages.first
        np.testing.assert_allclose(new.asarray(), old.asarray(), rtol=1e-6)
        assert new.asarray().dtype == old.asarray().dtype
        assert (new.photometric, new.extrasamples, new.shape) == (old.photometric, old.extrasamples, old.shape)
        assert (new.compression == 1) == (old.compression == 1)
        assert after.byteorder == before.byteorder
        assert len(after.pages) == 1


# ---- metadata


def test_profile_and_resolution_of_png_and_jpeg(tmp_path: Path) -> None:
    exif = PillowImage.Exif()
    exif[274], exif[315], exif[306] = 6, "Photographer", "2024:01:02 03:04:05"
    for name in ("a.png", "a.jpg"):
        PillowImage.fromarray(COLOUR).save(tmp_path / name, icc_profile=PROFILE, dpi=(300, 300), exif=exif)
        original = read(tmp_path / name)
        path = write_like(original, tmp_path / "again", original.pixels)
        with PillowImage.open(tmp_path / name) as before, PillowImage.open(path) as after:
            assert after.format == "PNG"
            assert after.info["icc_profile"] == PROFILE
            assert after.info["dpi"] == pytest.approx(before.info["dpi"], abs=0.02)
            assert dict(after.getexif()) == {315: "Photographer", 306: "2024:01:02 03:04:05"}
            assert after.size == (20, 30)  # turned upright, once
            np.testing.assert_array_equal(np.asarray(after), np.rot90(np.asarray(before), -1))


def test_gamma_and_text_of_png_but_no_hidden_rotation(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Author", "Somebody")
    info.add_text("Raw profile type exif", "\nexif\n  0\n")
    info.add(b"gAMA", (45455).to_bytes(4, "big"))
    PillowImage.fromarray(COLOUR).save(tmp_path / "a.png", pnginfo=info)
    original = read(tmp_path / "a.png")
    with PillowImage.open(write_like(original, tmp_path / "again", original.pixels)) as after:
        assert (after.info["gamma"], after.text) == (0.45455, {"Author": "Somebody"})  # type: ignore[attr-defined]


@pytest.mark.parametrize("unit", ["CENTIMETER", "INCH", "NONE"])
def test_tags_of_tiff(tmp_path: Path, unit: str) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        DEEP[..., 0],
        resolution=((123457, 1000), (7, 3)),
        resolutionunit=unit,
        description="Zelle 3, 40-fach, Grün".encode(),
        datetime="2024:01:02 03:04:05",
        iccprofile=PROFILE,
        extratags=[(315, 2, 0, "Someone", True), (271, 2, 0, "Microscope", True)],
        metadata=None,
    )
    original = read(tmp_path / "a.tif")
    with (
        tifffile.TiffFile(tmp_path / "a.tif") as before,
        tifffile.TiffFile(write_like(original, tmp_path / "again", original.pixels)) as after,
    ):
        for code in (270, 271, 282, 283, 296, 306, 315, 34675):
            assert after.pages.first.tags[code].value == before.pages.first.tags[code].value
        assert 305 not in after.pages.first.tags


def test_page_of_an_imagej_stack_keeps_its_scale_and_is_one_image(tmp_path: Path) -> None:
    stack = DEEP.transpose(2, 0, 1)
    metadata = {"unit": "micron", "axes": "ZYX", "spacing": 2.5, "min": 10.0, "max": 60000.0}
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, resolution=(4.2, 4.2), metadata=metadata)
    original = open_images(tmp_path / "a.tif")[2]
    with tifffile.TiffFile(write_like(original, tmp_path / "again", original.pixels)) as after:
        np.testing.assert_array_equal(after.asarray(), stack[2])
        imagej = after.imagej_metadata or {}
        assert (imagej["unit"], imagej["spacing"], imagej["max"]) == ("micron", 2.5, 60000.0)
        assert not {"images", "slices"} & set(imagej)
        x, n = after.pages.first.tags["XResolution"].value
        assert x / n == pytest.approx(4.2, rel=1e-4)


def test_pixel_size_of_ome_becomes_a_resolution(tmp_path: Path) -> None:
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm"}
    metadata |= {"PhysicalSizeY": 500, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", DEEP.transpose(2, 0, 1), ome=True, metadata=metadata)
    original = open_images(tmp_path / "a.ome.tif")[1]
    with tifffile.TiffFile(write_like(original, tmp_path / "again", original.pixels)) as after:
        assert not after.is_ome
        tags = after.pages.first.tags
        assert (tags["XResolution"].value, tags["YResolution"].value) == ((40000, 1), (20000, 1))
        assert tags["ResolutionUnit"].value == 3  # per centimetre


def test_enlarged_results_show_the_same_length(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DEEP[..., 0], resolution=(1000, 500), resolutionunit="CENTIMETER")
    PillowImage.fromarray(COLOUR).save(tmp_path / "a.png", dpi=(254, 254))
    original = read(tmp_path / "a.tif")
    with tifffile.TiffFile(write_like(original, tmp_path / "big", np.full((1, 80, 120), 0.5))) as big:
        assert big.pages.first.shape == (80, 120)
        assert big.pages.first.tags["XResolution"].value == (4000, 1)
        assert big.pages.first.tags["YResolution"].value == (2000, 1)
    original = read(tmp_path / "a.png")
    with PillowImage.open(write_like(original, tmp_path / "big", np.zeros((3, 80, 120)))) as image:
        assert image.info["dpi"] == pytest.approx((1016, 1016))


def test_alpha_is_enlarged_bilinearly(tmp_path: Path) -> None:
    alpha = np.zeros((20, 30), np.uint8)
    alpha[:, 15:] = 255
    PillowImage.fromarray(np.dstack([COLOUR, alpha])).save(tmp_path / "a.png")
    original = read(tmp_path / "a.png")
    enlarged = read(write_like(original, tmp_path / "big", np.zeros((3, 80, 120)))).alpha
    assert enlarged is not None and enlarged.shape == (80, 120)
    assert (enlarged[:, :57] == 0).all() and (enlarged[:, 63:] == 1).all()
    np.testing.assert_allclose(enlarged[5, 58:62], [0.125, 0.375, 0.625, 0.875], atol=1 / 255)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_keeps_attributes_type_and_format(tmp_path: Path, zarr_format: Any) -> None:
    values = RNG.integers(0, 65536, (4, 3, 6, 7), dtype=np.uint16)
    attributes = {"scale_µm": [0.1, 0.1], "note": "x"}
    zarr.create_array(store=str(tmp_path / "a.zarr"), data=values, attributes=attributes, zarr_format=zarr_format)
    original = open_images(tmp_path / "a.zarr")[2]
    written: Any = zarr.open(str(write_like(original, tmp_path / "x", original.pixels)), mode="r")
    np.testing.assert_array_equal(written[:], values[2])
    assert (written.dtype, dict(written.attrs), written.metadata.zarr_format) == (np.uint16, attributes, zarr_format)


# ---- rounding


@pytest.mark.parametrize("name", ["RGB.png", "png16-3.png", "RGB.tif", "inverted8.tif", "inverted16.tif", *FLOAT_TIFFS])
def test_rounding_never_loses_coverage(tmp_path: Path, name: str) -> None:
    original = read(make(tmp_path, name))
    pixels = RNG.random((len(original.pixels), 64, 64)) ** 2
    lower, nearest, upper = (
        read(write_like(original, tmp_path / rounding, pixels, rounding=rounding)).pixels
        for rounding in ("down", "nearest", "up")
    )
    same = 2.0**-22  # what float32 cannot tell apart
    step = {8: 1 / 255, 16: 1 / 65535, 32: 2.0**-10 if name == "half.tif" else 2.0**-22}[original.bit_depth]
    assert (lower <= pixels + same).all() and (upper >= pixels - same).all()
    assert (abs(nearest - pixels) <= step / 2 + same).all()
    assert ((upper - lower) <= step + same).all()
    if original.bit_depth < 32:
        assert np.mean(upper > lower) > 0.97  # the rest are steps within float32's precision


def test_value_range_is_mapped_back(tmp_path: Path) -> None:
    counts = RNG.integers(100, 3000, (20, 30)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", counts)
    original = read(tmp_path / "a.tif", value_range=(90, 3100))
    path = write_like(original, tmp_path / "x", original.pixels)
    np.testing.assert_array_equal(tifffile.imread(path), counts)
    halves = np.full((1, 2, 2), 0.5001)
    for rounding, expected in zip(ROUNDINGS, (1595, 1595, 1596), strict=True):
        assert tifffile.imread(write_like(original, tmp_path / "x", halves, rounding=rounding))[0, 0] == expected
    for dtype, low, high in (("int16", -1000, 4000), ("float32", -1.5, 2.5), ("uint32", 0, 10**6)):
        values = (low + RNG.random((20, 30)) * (high - low)).astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", values)
        original = read(tmp_path / "a.tif", value_range=(low, high))
        back = tifffile.imread(write_like(original, tmp_path / "x", original.pixels))
        assert back.dtype == dtype
        np.testing.assert_allclose(back, values, atol=(high - low) * 2.0**-23)


def test_wrong_pixels_are_refused(tmp_path: Path) -> None:
    original = read(make(tmp_path, "RGB.png"))
    for shape in ((1, 4, 4), (4, 4), (3, 0, 4)):
        with pytest.raises(ShapeError, match=r"x\.png: pixels have shape .*expected \(3, H, W\)"):
            write_like(original, tmp_path / "x", np.zeros(shape))
    with pytest.raises(ShapeError, match=r"x\.png: 48 values are not finite"):
        write_like(original, tmp_path / "x", np.full((3, 4, 4), np.nan))
    assert not (tmp_path / "x.png").exists()


# ---- disks that refuse, writers that meet


def noisy(suffix: str, folder: Path) -> Image:
    """An image that takes 300 kB however it is compressed."""
    values = RNG.integers(0, 65536, (3, 220, 230), dtype=np.uint16)
    path = folder / f"a{suffix}"
    if suffix == ".zarr":
        zarr.create_array(store=str(path), data=values)
    elif suffix == ".tif":
        tifffile.imwrite(path, values, photometric="rgb", planarconfig="separate")
    else:
        write_png16(path, values.transpose(1, 2, 0))
    return read(path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".zarr"])
def test_full_disk_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    original = noisy(suffix, tmp_path)
    with mounted(tmp_path / "disk", "size=100k") as disk:
        with pytest.raises(StoreError, match=rf"lower\{suffix}: cannot be written \(No space left on device\)"):
            write_like(original, disk / "lower", original.pixels)
        assert left_in(disk) == []
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert (read(write_like(original, disk / "lower", original.pixels)).pixels == original.pixels).all()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(StoreError, match=r"cannot be written \(Read-only file system\)"):
            write_like(original, disk / "upper", original.pixels)
        assert left_in(disk) == [f"lower{suffix}"]


def test_read_only_folder(tmp_path: Path) -> None:
    make(tmp_path, "RGB.png")
    (tmp_path / "closed").mkdir(mode=0o555)
    os.chmod(tmp_path, 0o755)
    script = f"""
        import os
        from conffusion.images.image import open_images
        from conffusion.images.writing import write_like
        from conffusion.errors import StoreError
        original = open_images({str(tmp_path / "RGB.png")!r})[0]
        os.chdir({str(tmp_path)!r})
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            write_like(original, "closed/lower", original.pixels)
        except StoreError as error:
            print(error)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("closed/lower.png: cannot be written (Permission denied); permission is lacking")


WRITER = """
    import sys
    import numpy as np
    from conffusion.images.image import open_images
    from conffusion.images.writing import write_like
    from conffusion.errors import StoreError
    original = open_images(sys.argv[1])[0]
    value = float(sys.argv[3])
    print(flush=True)
    sys.stdin.readline()
    for _ in range(40):
        try:
            write_like(original, sys.argv[2], np.full(original.pixels.shape, value))
        except StoreError as error:
            print(error)
    """


@pytest.mark.parametrize("suffix", [".png", ".tif", ".zarr"])
def test_two_processes_that_write_one_output(tmp_path: Path, suffix: str) -> None:
    """The last writer's output is there, complete; with folders, the other writer may get an error that says so."""
    noisy(suffix, tmp_path)
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / f"a{suffix}"), str(tmp_path / "out")]
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen([*command, value], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for value in ("0.2", "0.8")
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.flush()
        if suffix != ".zarr":  # whatever is there at any time is whole
            while any(writer.poll() is None for writer in writers):
                if (tmp_path / f"out{suffix}").exists():
                    assert len(np.unique(read(tmp_path / f"out{suffix}").pixels)) == 1
        outputs = [writer.communicate(timeout=60)[0] for writer in writers]
    assert all(writer.returncode == 0 for writer in writers)
    if suffix != ".zarr":
        assert outputs == ["", ""]
    assert all("cannot be written" in line for output in outputs for line in output.splitlines())
    values = np.unique(read(tmp_path / f"out{suffix}").pixels)
    assert len(values) == 1
    assert math.isclose(values[0], 0.2, abs_tol=1e-4) or math.isclose(values[0], 0.8, abs_tol=1e-4)
    assert left_in(tmp_path) == [f"a{suffix}", f"out{suffix}"]


@pytest.mark.parametrize("name", ["--lower", "über été 写真", "a;b $c 'd'", ".hidden", "100%"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    original = read(make(tmp_path, "RGB.png"))
    path = write_like(original, tmp_path / "-o ü" / name, original.pixels)
    assert path.name == f"{name}.png"
    assert left_in(path.parent) == [f"{name}.png"]


def test_one_pixel(tmp_path: Path) -> None:
    for suffix in (".png", ".tif"):
        PillowImage.fromarray(COLOUR[:1, :1, 0]).save(tmp_path / f"a{suffix}")
        original = read(tmp_path / f"a{suffix}")
        assert read(write_like(original, tmp_path / "x", original.pixels)).pixels == original.pixels
        assert read(write_like(original, tmp_path / "x", np.ones((1, 4, 4)))).size == (4, 4)
