import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from conffusion.errors import DataError
from conffusion.view.gallery import Gallery, first_images
from conffusion.view.page import PIXEL_BUDGET, fitting_side, write_page
from conffusion.view.predictions import open_predictions
from tests.view.folders import Made, made, read_index, read_planes, write_predictions

HOSTILE = ["</script><b>x", "a b/ö 画像", "<!--<script>", "&lt;{{ name }}", "'\"`${1}", "\u2028line"]


def test_pixels_survive_the_page(tmp_path: Path) -> None:
    mask = np.zeros((12, 16), dtype=bool)
    mask[2:9, 3:12] = True
    images = {"a": made(0), "b": made(1, (1, 7, 5), 16), "c": made(2, mask=mask), "d": made(3, truth=False)}
    page = write_page(open_predictions([write_predictions(tmp_path / "in", images)]), tmp_path / "view.html")
    for place, (name, one) in enumerate(images.items()):
        planes = read_planes(page.path, place)
        assert read_index(page.path)["images"][place]["name"] == name
        for part in ("lower", "upper", "estimate"):
            assert np.array_equal(planes[f"{part}0"], getattr(one, part))
        assert ("target" in planes) == (one.target is not None)
        if one.target is not None:
            assert np.array_equal(planes["target"], one.target) and np.array_equal(planes["missed0"], one.missed)
        if one.mask is not None:
            assert np.array_equal(planes["mask"][0], one.mask)


def test_names_of_files_are_text_and_nothing_else(tmp_path: Path) -> None:
    root = write_predictions(tmp_path / "in", {name: made(k) for k, name in enumerate(HOSTILE)})
    page = write_page(open_predictions([root]), tmp_path / "view.html").path

    class Elements(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)

    elements = Elements()
    elements.feed(page.read_text())
    assert elements.tags.count("script") == 2 + len(HOSTILE) and "b" not in elements.tags
    assert {image["name"] for image in read_index(page)["images"]} == set(HOSTILE)


def test_page_loads_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    page = write_page(open_predictions([write_predictions(tmp_path / "in", {"x": made(0)})]), tmp_path / "view.html")
    text = page.path.read_text()
    assert not re.search(r"https?://|@import|url\(|<link[^>]*href=\"(?!data:)|\bsrc=", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and "default-src 'none'" in policy[1] and "unsafe" not in policy[1]
    for element, kind in (("style", "style-src"), ("script", "script-src")):
        content = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode()
        assert len(content) == 1 and f"{kind} 'sha256-{digest}'" in policy[1]
    assert page.n_bytes == page.path.stat().st_size and page.max_side is None


@pytest.mark.parametrize("shape", [(3, 40, 64), (1, 33, 50), (3, 1, 64), (1, 2, 90)])
def test_large_images_keep_real_pixels(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    one = made(0, shape)
    page = write_page(open_predictions([write_predictions(tmp_path / "in", {"x": one})]), tmp_path / "v.html", 20)
    (image,) = read_index(page.path)["images"]
    step = image["step"]
    assert page.max_side == 20 and step == -(-max(shape) // 20) and image["size"] == list(shape[1:])
    first = step // 2 if step // 2 < min(shape[1:]) else 0
    planes = read_planes(page.path, 0)
    assert max(planes["lower0"].shape) <= 20
    for part in ("lower", "upper", "estimate"):
        assert np.array_equal(planes[f"{part}0"], getattr(one, part)[:, first::step, first::step])
    assert image["predictions"][0]["risk"] == pytest.approx(one.missed.mean(), rel=1e-5)


def gallery(n: int, side: int) -> Gallery:
    return Gallery("t", (), ((side, side),) * n, 15, lambda: iter(()))


def test_reduction_keeps_the_page_within_its_budget() -> None:
    assert fitting_side(gallery(1, 3000)) == 4096 and fitting_side(gallery(10_000, 32)) == 4096
    side = fitting_side(gallery(1000, 1024))
    assert 64 <= side < 256 and 1000 * side**2 * 15 <= PIXEL_BUDGET
    with pytest.raises(DataError, match=r"10,000 images are too many .*--first"):
        fitting_side(gallery(10_000, 1024))


def test_first_images_are_announced(tmp_path: Path) -> None:
    root = write_predictions(tmp_path / "in", {name: made(0) for name in "abc"})
    few = first_images(open_predictions([root]), 2)
    index = read_index(write_page(few, tmp_path / "v.html").path)
    assert [image["name"] for image in index["images"]] == ["a", "b"]
    assert "The page shows the first 2 of 3 images." in index["notes"]
    assert first_images(few, 2) is few


def test_a_page_that_cannot_be_finished_is_not_there(tmp_path: Path) -> None:
    root = write_predictions(tmp_path / "in", {"a": made(0), "b": made(1)})
    (root / "b" / "lower.png").unlink()
    with pytest.raises(DataError, match=r"lower\.png: is missing"):
        write_page(open_predictions([root]), tmp_path / "out" / "v.html")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("n_wide", "end"), [(15, 0.85), (5, 0.25)])
def test_the_last_colour_is_for_the_99_percent_quantile_of_the_sizes(tmp_path: Path, n_wide: int, end: float) -> None:
    """Of 1,000 pixels, up to 10 may be wider than the end of the colour scale."""
    sizes = np.full(1000, 51, dtype=np.uint8)  # 0.2
    sizes[:n_wide] = 204  # 0.8
    upper = sizes.reshape(1, 20, 50)
    one = Made(np.zeros_like(upper), upper, upper // 2)
    page = write_page(open_predictions([write_predictions(tmp_path / "in", {"a": one})]), tmp_path / "v.html")
    assert read_index(page.path)["scale_end"] == end
