import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conffusion.errors import DataError
from conffusion.images.png import encode_png, is_png, read_chunks
from conffusion.images.raw_image import Metadata

RNG = np.random.default_rng(7)


def written(samples: np.ndarray, chunks: tuple[tuple[bytes, bytes], ...] = ()) -> io.BytesIO:
    return io.BytesIO(encode_png(samples, Metadata(png_chunks=chunks)))


@pytest.mark.parametrize("n_samples", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pillow_reads_what_is_written(n_samples: int, dtype: Any) -> None:
    samples = RNG.integers(0, np.iinfo(dtype).max, (150, 7, n_samples), dtype=dtype, endpoint=True)
    file = written(samples)
    with Image.open(file) as image:
        image.verify()
    with Image.open(file) as image:
        found = np.asarray(image).reshape(150, 7, -1)
    if dtype == np.uint16 and n_samples > 1:  # Pillow keeps the upper 8 bits; grey with alpha comes as RGBA
        found, samples = found[..., -n_samples:], samples >> 8
    np.testing.assert_array_equal(found, samples)


def test_smooth_images_are_compressed() -> None:
    gradient = np.add.outer(np.arange(300), np.arange(400)).astype(np.uint16)[..., None] * 90
    assert len(written(gradient).getvalue()) < 0.1 * gradient.nbytes


def test_chunks_are_found_and_large_ones_left_out() -> None:
    text = (b"tEXt", b"Author\0Somebody"), (b"tEXt", b"Title\0Cell"), (b"gAMA", bytes(4))
    file = written(np.zeros((2, 3, 1), np.uint8), text)
    assert is_png(file)
    assert read_chunks(file, [b"tEXt"]) == list(text[:2])
    assert read_chunks(file, [b"tEXt"], max_bytes=12) == [text[1]]
    pixels = b"".join(content for _, content in read_chunks(file, [b"IDAT"]))
    assert len(zlib.decompress(pixels)) == 2 * (1 + 3)


def test_files_that_end_early_or_are_no_png() -> None:
    whole = written(np.zeros((2, 3, 1), np.uint8)).getvalue()
    for n_bytes in range(8, len(whole) - 8):
        with pytest.raises(DataError, match="truncated"):
            read_chunks(io.BytesIO(whole[:n_bytes]), ())
    assert not is_png(io.BytesIO(b"GIF89a"))
