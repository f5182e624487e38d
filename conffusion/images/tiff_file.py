"""TIFF files and stacks: each page is an image in its own bit depth."""

import os
import re
from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from conffusion.errors import DataError
from conffusion.images.raw_image import (
    CMYK_WARNING,
    TRUNCATED,
    ImageFile,
    Metadata,
    RawImage,
    Resolution,
    check_size,
    resolution_or_none,
)
from conffusion.images.sources import Location

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ICC_PROFILE, ORIENTATION = 34675, 274  # tags
N_COLOURS = {"MINISBLACK": 1, "MINISWHITE": 1, "PALETTE": 1, "RGB": 3, "YCBCR": 3, "SEPARATED": 4}
BY_PILLOW = ("PALETTE", "YCBCR", "SEPARATED")  # of 8 bits, converted to RGB by Pillow
CARRIED_TAGS = (271, 272, 306, 315, 33432)  # maker, model, date and time, artist, copyright
UNITS = {1: None, 2: "inch", 3: "cm"}
UNIT_CODES: dict[str | None, int] = {None: 1, "inch": 2, "cm": 3}
OME_UNITS = {"m": 1, "cm": 1e2, "mm": 1e3, "µm": 1e6, "μm": 1e6, "um": 1e6, "nm": 1e9}  # per metre; two kinds of µ
LARGEST_SEGMENT = 2**25  # bytes of a tile, where the image itself is smaller
ALPHA = {1, 2}  # kinds of extra samples: associated, unassociated; 0 is anything
REDUCED_OR_MASK = 1 | 4  # bits of NewSubfileType
# Lines of ImageJ's description that count the images of a stack.
COUNTS = re.compile(r"^(images|channels|slices|frames|hyperstack|mode|loop)=")


class TiffFile(ImageFile):
    """The pages of a TIFF; thumbnails, smaller versions of a page and masks are passed over.

    Args:
        path: The file.
        max_pixels: Pixels that a page may have.
    Raises:
        DataError: If the file is damaged or truncated, or a page is too large, or neither grey nor colour.
    """

    def __init__(self, path: Location, max_pixels: int) -> None:
        self._path = path
        self._pages: list[tuple[int, int]] = []  # index in the file, and byte at which its tags start
        sizes = []
        with path.open("rb") as file, tifffile.TiffFile(file) as tiff:
            n_bytes = file.seek(0, os.SEEK_END)
            for index, page in enumerate(tiff.pages):
                if not isinstance(page, tifffile.TiffPage) or page.subfiletype & REDUCED_OR_MASK:
                    continue
                try:
                    _check_page(page, n_bytes, max_pixels)
                except DataError as error:
                    raise DataError(f"page {index}: {error}" if index else str(error)) from error
                self._pages.append((index, page.offset))
                sizes.append((page.imagelength, page.imagewidth))
            _refuse_one_header(tiff)
            _check_end(tiff)
        self.sizes: Sequence[tuple[int, int]] = sizes
        if not sizes:
            raise DataError("holds no image; replace the file or remove it")

    def read(self, k: int) -> RawImage:
        """Decode page k."""
        index, offset = self._pages[k]
        with self._path.open("rb") as file, tifffile.TiffFile(file) as tiff:
            tiff.filehandle.seek(offset)
            page = tifffile.TiffPage(tiff, index)
            samples, white = _decode(file, page, index)
            orientation = page.tags.get(ORIENTATION)
            return RawImage(
                samples,
                white,
                ".tif",
                inverted=_is_inverted(page, tiff),
                orientation=int(orientation.value) if orientation is not None else 1,
                metadata=_metadata(page, tiff),
                warnings=(CMYK_WARNING,) if _colour_model(page) == "SEPARATED" else (),
            )


def is_tiff(file: BinaryIO) -> bool:
    """Whether the file starts as a TIFF does, whatever its name."""
    file.seek(0)
    return file.read(4) in MAGIC


def _colour_model(page: tifffile.TiffPage) -> str:
    return str(getattr(page.photometric, "name", page.photometric))


def _is_inverted(page: tifffile.TiffPage, tiff: tifffile.TiffFile) -> bool:
    """Whether the smallest value is white. Boolean arrays are marked so by tifffile, which means white by True."""
    is_boolean_array = page.bitspersample == 1 and tiff.pages.first.software == "tifffile.py"
    return _colour_model(page) == "MINISWHITE" and not is_boolean_array


def _refuse_one_header(tiff: tifffile.TiffFile) -> None:
    """Raise DataError if one page stands for a whole stack, as ImageJ and tifffile (`truncate`) may write it."""
    if len(tiff.pages) > 1:
        return
    shape = ((tiff.shaped_metadata or ({},))[0]).get("shape", ())
    n_images = int((tiff.imagej_metadata or {}).get("images", 1))
    n_images = max(n_images, int(np.prod(shape, dtype=float)) // max(tiff.pages.first.size, 1))
    if n_images > 1:
        raise DataError(
            f"holds {n_images} images behind one header, as ImageJ writes files above 4 GB and tifffile with "
            "truncate=True; save it as an image sequence, or with a header for each page"
        )


def _check_end(tiff: tifffile.TiffFile) -> None:
    """Raise DataError if a further page is announced where tifffile has found the last."""
    tiff.filehandle.seek(tiff.pages.next_page_offset or 0)
    if int.from_bytes(tiff.filehandle.read(tiff.tiff.offsetsize), "little"):
        raise DataError(f"truncated: pages after the first {len(tiff.pages)} are missing; copy it again or remove it")


def _check_page(page: tifffile.TiffPage, n_bytes: int, max_pixels: int) -> None:
    check_size(page.imagelength, page.imagewidth, max_pixels)
    model, n_samples = _colour_model(page), page.samplesperpixel
    n_colours = N_COLOURS.get(model)
    if n_colours is None:
        raise DataError(
            f"has the colour model {model}, which is neither grey nor RGB; "
            "convert it to RGB with your colour profile (in an image editor) and try again"
        )
    if page.axes not in ("YX", "YXS", "SYX") or n_samples not in (n_colours, n_colours + 1):
        raise DataError(
            f"has {n_samples} samples per pixel (axes {page.axes}), expected {n_colours} and perhaps an alpha; "
            "save its channels as pages of a stack"
        )
    kinds = [int(kind) for kind in page.extrasamples]
    if n_samples > n_colours and (len(kinds) != 1 or not set(kinds) <= ALPHA):
        raise DataError(
            f"has {n_samples} samples per pixel, and does not say that the last one is an alpha (extra samples of "
            f"kind {kinds[0] if kinds else 'unknown'}): it may be a further channel, such as near infrared. Save the "
            "channels as pages of a stack, or an alpha as such"
        )
    if page.dtype is None or page.dtype.kind not in "uifb" or (model in BY_PILLOW and page.bitspersample > 8):
        kind = f"{page.sampleformat}, {page.bitspersample} bits"
        raise DataError(f"has samples of an unsupported type for the colour model {model} ({kind})")
    if int(np.prod(page.chunks)) * page.dtype.itemsize > _most_bytes(page):
        raise DataError(f"has tiles of {page.chunks} values, far larger than the image; save it with smaller ones")
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if max(ends, default=0) > n_bytes:
        raise DataError(TRUNCATED)


def _most_bytes(page: tifffile.TiffPage) -> int:
    """That a strip or tile may have: tiles may reach beyond the image."""
    return max(2 * page.nbytes, LARGEST_SEGMENT)


def _decode(file: BinaryIO, page: tifffile.TiffPage, index: int) -> tuple[npt.NDArray[Any], float | None]:
    """(H, W, 1 to 4) samples and the value of white."""
    if _colour_model(page) in BY_PILLOW:
        file.seek(0)
        image = TiffImageFile(file)
        image.seek(index)
        return np.asarray(image.convert("RGB")), 255
    if page.compression in tifffile.TIFF.IMAGE_COMPRESSIONS:
        _check_embedded_sizes(file, page)
    samples = page.asarray()
    samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples
    samples = samples.astype(np.uint8) if samples.dtype == bool else samples
    bits = page.bitspersample
    white = {"u": 2.0**bits - 1 if bits <= 16 else None, "f": 1.0}.get(samples.dtype.kind)
    return samples.reshape(*samples.shape[:2], -1), white


def _check_embedded_sizes(file: BinaryIO, page: tifffile.TiffPage) -> None:
    """Raise DataError if a JPEG or the like in a strip or tile has a header of its own that announces far more."""
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        file.seek(start)
        try:
            with Image.open(BytesIO(file.read(count))) as segment:
                n_bytes = segment.width * segment.height * page.samplesperpixel
        except (OSError, Image.DecompressionBombError) as error:
            kind = getattr(page.compression, "name", page.compression)
            raise DataError(f"has a strip compressed as {kind} that cannot be read ({error}); use deflate") from error
        if n_bytes > _most_bytes(page):
            raise DataError("unpacks to far more than its header says; it is damaged or made to fill the memory")


def _metadata(page: tifffile.TiffPage, tiff: tifffile.TiffFile) -> Metadata:
    def text(code: int) -> bytes:
        tag = page.tags.get(code)
        return tag.value.encode() if tag is not None and isinstance(tag.value, str) else b""

    profile = page.tags.get(ICC_PROFILE)
    # ImageJ describes a whole stack at its first page, with the unit of its resolution.
    description = _description(tiff.pages.first.description if tiff.is_imagej else page.description)
    return Metadata(
        icc_profile=bytes(profile.value) if profile is not None and _colour_model(page) != "SEPARATED" else None,
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
    if page.extrasamples and _colour_model(page) in ("MINISBLACK", "MINISWHITE", "RGB"):
        layout["extrasamples"] = [int(kind) for kind in page.extrasamples]
    return layout
