"""TIFF files and stacks: each page is an image in its own bit depth."""

import lzma
import re
import sys
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile
from PIL.Image import DecompressionBombError
from PIL.TiffImagePlugin import TiffImageFile

from conffusion.errors import DataError
from conffusion.images import sixteen_bit
from conffusion.images.raw_image import Metadata, RawImage, Resolution, check_size, resolution_or_none

ICC_PROFILE, PHOTOMETRICS = 34675, ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "YCBCR")
CARRIED_TAGS = (271, 272, 306, 315, 33432)  # maker, model, date and time, artist, copyright
UNITS = {1: None, 2: "inch", 3: "cm"}
UNIT_CODES: dict[str | None, int] = {None: 1, "inch": 2, "cm": 3}
OME_UNITS = {"m": 1, "cm": 1e2, "mm": 1e3, "µm": 1e6, "μm": 1e6, "um": 1e6, "nm": 1e9}  # per metre; two kinds of µ
UNPACKERS: dict[int, Any] = {8: zlib.decompressobj, 32946: zlib.decompressobj, 34925: lzma.LZMADecompressor}
LARGEST_SEGMENT = 2**25  # bytes of a tile, where the image itself is smaller
KINDS_OF_ALPHA = {0, 1, 2}  # unspecified, associated, unassociated
REDUCED_OR_MASK = 1 | 4  # bits of NewSubfileType
# Lines of ImageJ's description that count the images of a stack.
COUNTS = re.compile(r"^(images|channels|slices|frames|hyperstack|mode|loop)=")


class TiffFile:
    """The pages of a TIFF; thumbnails, smaller versions of a page and masks are passed over.

    Args:
        path: The file.
        max_pixels: Pixels that a page may have.
    Raises:
        DataError: If the file is damaged or truncated, or a page is too large, or neither grey nor RGB.
    """

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._path = path
        self._pages: list[tuple[int, int]] = []  # index in the file, and byte at which its tags start
        n_bytes = path.stat().st_size
        with tifffile.TiffFile(path) as tiff:
            _refuse_one_block(tiff)
            for index, page in enumerate(tiff.pages):
                if not isinstance(page, tifffile.TiffPage) or page.subfiletype & REDUCED_OR_MASK:
                    continue
                try:
                    _check_page(page, n_bytes, max_pixels)
                except DataError as error:
                    raise DataError(f"page {index}: {error}" if index else str(error)) from error
                self._pages.append((index, page.offset))
            _check_end(tiff)
        if not self._pages:
            raise DataError("holds no image; replace the file or remove it")

    def __len__(self) -> int:
        """Number of pages."""
        return len(self._pages)

    def read(self, k: int) -> RawImage:
        """Decode page k."""
        index, offset = self._pages[k]
        with self._path.open("rb") as file, tifffile.TiffFile(file) as tiff:
            tiff.filehandle.seek(offset)
            page = tifffile.TiffPage(tiff, index)
            samples, white = _decode(file, page, index)
            return RawImage(
                samples,
                white,
                ".tif",
                inverted=sixteen_bit.is_inverted(page),
                orientation=sixteen_bit.tiff_orientation(page),
                metadata=_metadata(page, tiff),
            )


def _refuse_one_block(tiff: tifffile.TiffFile) -> None:
    n_images = int((tiff.imagej_metadata or {}).get("images", 1))
    if n_images > 1 and len(tiff.pages) == 1:
        raise DataError(
            f"holds {n_images} images behind one header, as ImageJ writes files above 4 GB; "
            "save it as an image sequence"
        )


def _check_end(tiff: tifffile.TiffFile) -> None:
    """Raise DataError if a further page is announced where tifffile has found the last."""
    tiff.filehandle.seek(tiff.pages.next_page_offset or 0)
    if int.from_bytes(tiff.filehandle.read(tiff.tiff.offsetsize), "little"):
        raise DataError(f"truncated: pages after the first {len(tiff.pages)} are missing; copy it again or remove it")


def _check_page(page: tifffile.TiffPage, n_bytes: int, max_pixels: int) -> None:
    check_size(page.imagelength, page.imagewidth, max_pixels)
    photometric = sixteen_bit.photometric_name(page)
    if photometric not in PHOTOMETRICS:
        raise DataError(
            f"has the colour model {photometric}, which is neither grey nor RGB; "
            "convert it to RGB with your colour profile (in an image editor) and try again"
        )
    n_samples = page.samplesperpixel
    n_colours = 3 if photometric in ("RGB", "YCBCR") else 1
    if page.axes not in ("YX", "YXS", "SYX") or n_samples not in (n_colours, n_colours + 1):
        raise DataError(
            f"has {n_samples} samples per pixel (axes {page.axes}), expected {n_colours} and perhaps an alpha; "
            "save its channels as pages of a stack"
        )
    extra = [int(kind) for kind in page.extrasamples]
    if len(extra) > n_samples - n_colours or not set(extra) <= KINDS_OF_ALPHA:
        raise DataError(f"has extra samples of kinds {extra}, which do not fit its {n_samples} samples per pixel")
    if page.dtype is None or page.dtype.kind not in "uifb":
        raise DataError(f"has samples of an unsupported type ({page.sampleformat}, {page.bitspersample} bits)")
    if int(np.prod(page.chunks)) * page.dtype.itemsize > _most_bytes(page):
        raise DataError(f"has tiles of {page.chunks} values, far larger than the image; save it with smaller ones")
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if max(ends, default=0) > n_bytes:
        raise DataError("truncated: the file ends before the image does; copy it again or remove it")


def _refuse_bomb(file: BinaryIO, page: tifffile.TiffPage) -> None:
    """Raise DataError if compressed data unpack to far more than the header says; decoders would unpack all of it."""
    unpacker = UNPACKERS.get(page.compression)
    if unpacker is None:
        return
    most = _most_bytes(page)
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        file.seek(start)
        if len(unpacker().decompress(file.read(count), max_length=most + 1)) > most:
            raise DataError("unpacks to far more than its header says; it is damaged or made to fill the memory")


def _most_bytes(page: tifffile.TiffPage) -> int:
    """That a strip or tile may have: tiles may reach beyond the image."""
    return max(2 * page.nbytes, LARGEST_SEGMENT)


def _decode(file: BinaryIO, page: tifffile.TiffPage, index: int) -> tuple[npt.NDArray[Any], float | None]:
    """(H, W, 1 to 4) samples and the value of white."""
    bits = page.bitspersample
    if sixteen_bit.photometric_name(page) in ("PALETTE", "YCBCR"):
        samples, bits = np.asarray(_open_page(file, index).convert("RGB")), 8
    else:
        _refuse_bomb(file, page)
        try:
            samples = sixteen_bit.tiff_samples(page)
        except DataError:
            # Pillow knows more compressions, but mistakes the byte order of what is not unsigned.
            if page.dtype is None or page.dtype.kind not in "ub" or page.dtype.itemsize > 2 or 1 in page.extrasamples:
                raise
            samples = _decode_with_pillow(file, index, page)
            bits = samples.itemsize * 8
    samples = samples.astype(np.uint8) if samples.dtype == bool else samples
    white = {"u": 2.0**bits - 1 if bits <= 16 else None, "f": 1.0}.get(samples.dtype.kind)
    return samples if samples.ndim == 3 else samples[..., None], white


def _decode_with_pillow(file: BinaryIO, index: int, page: tifffile.TiffPage) -> npt.NDArray[Any]:
    """Samples of a page in a compression that tifffile lacks, such as LZW, JPEG and those of faxes."""
    remedy = "save it uncompressed or with deflate, or install imagecodecs"
    try:
        image: Any = _open_page(file, index)
        raw_mode = str(image.tile[0].args[0]) if image.tile else ""  # loading forgets it
        image.load()
    except (SyntaxError, DecompressionBombError) as error:  # the second: above Pillow's own limit
        raise DataError(f"is compressed in a way that cannot be read here ({error}); {remedy}") from error
    samples = np.asarray(image.convert("L") if image.mode == "1" else image)
    if samples.dtype == np.uint8 and sixteen_bit.is_inverted(page):
        samples = 255 - samples  # Pillow has turned it already
    if (
        raw_mode.endswith(";16N") and samples.dtype == np.uint8
    ):  # Pillow keeps the more significant byte of each pair; a second pass gives the other
        low: Any = _open_page(file, index)
        other_end = "B" if sys.byteorder == "little" else "L"
        low.tile = [tile._replace(args=(raw_mode[:-1] + other_end, *tile.args[1:])) for tile in low.tile]
        samples = samples.astype(np.uint16) << 8 | np.asarray(low)
    if samples.itemsize * 8 < page.bitspersample or samples[0, 0].size != page.samplesperpixel:
        raise DataError(f"is compressed in a way that cannot be read here; {remedy}")
    return samples


def _open_page(file: BinaryIO, index: int) -> TiffImageFile:
    file.seek(0)
    image = TiffImageFile(file)
    image.seek(index)
    return image


def _metadata(page: tifffile.TiffPage, tiff: tifffile.TiffFile) -> Metadata:
    def text(code: int) -> bytes:
        tag = page.tags.get(code)
        return tag.value.encode() if tag is not None and isinstance(tag.value, str) else b""

    profile = page.tags.get(ICC_PROFILE)
    # ImageJ describes a whole stack at its first page, with the unit of its resolution.
    description = _description(tiff.pages.first.description if tiff.is_imagej else page.description)
    return Metadata(
        icc_profile=bytes(profile.value) if profile is not None else None,
        resolution=_ome_resolution(tiff.ome_metadata) if tiff.ome_metadata else _resolution(page),
        description=description.encode() if description else None,
        tiff_tags=tuple((code, text(code)) for code in CARRIED_TAGS if text(code)),
        tiff_layout=_layout(page),
    )


def _resolution(page: tifffile.TiffPage) -> Resolution | None:
    x, y = page.tags.get(282), page.tags.get(283)
    if x is None or y is None:
        return None
    unit = page.tags.get(296)
    return resolution_or_none(
        Fraction(*x.value) if x.value[1] else 0,
        Fraction(*y.value) if y.value[1] else 0,
        UNITS.get(int(unit.value) if unit is not None else 2),
    )


def _ome_resolution(ome: str) -> Resolution | None:
    """Of OME's description, which states the size of a pixel."""
    sizes = []
    for axis in "XY":
        size = re.search(rf'PhysicalSize{axis}="([0-9.eE+-]+)"', ome)
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', ome)
        n_per_metre = OME_UNITS.get(unit.group(1) if unit else "µm")
        if size is None or n_per_metre is None:
            return None
        sizes.append(float(size.group(1)) * 100 / n_per_metre)
    return resolution_or_none(1 / sizes[0], 1 / sizes[1], "cm") if min(sizes) > 0 else None


def _description(text: str) -> str | None:
    """What still holds for a single page: no counts of images, and no descriptions of a whole stack in XML or JSON."""
    if text.startswith("ImageJ="):
        return "\n".join(line for line in text.splitlines() if not COUNTS.match(line)) + "\n"
    return None if not text or "<OME" in text or text.startswith(('{"shape"', '{"series"')) else text


def _layout(page: tifffile.TiffPage) -> dict[str, Any]:
    """Arguments of `tifffile.imwrite`: deflate stands for every compression."""
    layout: dict[str, Any] = {"byteorder": page.parent.byteorder}
    if page.compression != 1:
        layout["compression"] = "zlib"
    if page.samplesperpixel in (2, 4):
        layout["extrasamples"] = [int(kind) for kind in page.extrasamples] or [0]
    return layout
