"""The page in a real headless browser: keys, pointer, numbers, and that nothing is loaded."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps

from conffusion.view.gallery import Gallery, Prediction, Side, ViewedImage
from conffusion.view.page import Page, write_page
from conffusion.view.predictions import open_predictions
from tests.view.browser import CHROMIUM, Browser, browser
from tests.view.folders import Made, made, read_index, write_predictions

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH: apt-get install chromium"),
]

MASK = np.zeros((24, 32), dtype=bool)
MASK[6:18, 8:24] = True
SHAPE = (3, 24, 32)
HOSTILE = "</script><b>bold</b> é 画.x"
IMAGES: dict[str, Made] = {
    "img 2": made(2, SHAPE, record={"drift_p_value": 0.003, "warnings": ["holes are large"]}),
    "img 10": made(10, SHAPE, record={"drift_p_value": 0.9}),
    "hole": made(3, SHAPE, mask=MASK, record={"drift_p_value": 0.2}),
    "grey": made(4, (1, 20, 20), 16, record={"drift_p_value": 0.5}),
    HOSTILE: made(5, SHAPE, record={"drift_p_value": 0.04}),
}


def another(seed: int, one: Made) -> Made:
    """Other intervals for the same truth."""
    depth = 8 * one.lower.dtype.itemsize
    return replace(made(seed, one.lower.shape, depth), target=one.target, mask=one.mask, record={"method": "dm_sb"})


OTHER = {name: another(90 + k, one) for k, (name, one) in enumerate(IMAGES.items())}
DRIFT = {
    "p_value": 0.001,
    "warning": "the intervals of the 5 new images do not look like those of the calibration images",
}
_CELLS = ".map((one) => [one.dataset.value, one.textContent])"
BY_NAME = [HOSTILE, "grey", "hole", "img 2", "img 10"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as one:
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    roots = [write_predictions(folder / "first", IMAGES, DRIFT), write_predictions(folder / "second", OTHER)]
    return write_page(open_predictions(roots), folder / "with space é.html").path


@pytest.fixture
def opened(shared: Browser, page: Path) -> Iterator[Browser]:
    """The page, opened afresh; when the test ends, nothing was logged and nothing was loaded."""
    shared.errors.clear()
    shared.requests.clear()
    shared.open(page)
    yield shared
    assert not shared.errors
    assert [one for one in shared.requests if not one.startswith("data:")] == [page.resolve().as_uri()]


def go_to(view: Browser, name: str) -> None:
    view.press("Home", *["j"] * BY_NAME.index(name))
    view.wait(f"document.querySelector('.view').getAttribute('aria-label').startsWith({json.dumps(name)})")


def corner_and_scale(view: Browser, one: Made, panel: int = 0) -> tuple[float, float, float]:
    """Place of the image's corner within the canvas and screen pixels for an image pixel, while the image fits."""
    width, height = view.run(
        f"(() => {{ const c = document.querySelectorAll('.view')[{panel}]; return [c.clientWidth, c.clientHeight] }})()"
    )
    _, rows, columns = one.lower.shape
    scale = min(width / columns, height / rows)
    return width / 2 - columns * scale / 2, height / 2 - rows * scale / 2, scale


def screen(view: Browser, x: int, y: int, width: int, panel: int = 0) -> list[list[int]]:
    """Colours of a row of the screen, from a place of a panel's canvas on; copied, since the page draws only."""
    bytes_ = view.run(
        "(() => { const copy = document.createElement('canvas').getContext('2d', { willReadFrequently: true });"
        f"copy.canvas.width = {width}; copy.drawImage(document.querySelectorAll('.view')[{panel}], {-x}, {-y});"
        f"return [...copy.getImageData(0, 0, {width}, 1).data]; }})()"
    )
    return [bytes_[4 * k : 4 * k + 3] for k in range(width)]


def colour(view: Browser, one: Made, x: int, y: int, panel: int = 0) -> list[int]:
    """Colour that the screen shows at the middle of an image pixel."""
    left, top, scale = corner_and_scale(view, one, panel)
    return screen(view, int(left + (x + 0.5) * scale), int(top + (y + 0.5) * scale), 1, panel)[0]


def click_pixel(view: Browser, one: Made, x: int, y: int) -> None:
    left, top, scale = corner_and_scale(view, one)
    origin = view.place(".view", 0, 0)
    view.click(origin[0] + left + (x + 0.5) * scale, origin[1] + top + (y + 0.5) * scale)


def cells(view: Browser, table: int = 0) -> dict[str, str]:
    """Cells of the readout of a method by their names, as "red-lower"."""
    found = view.run(f"[...document.querySelectorAll('.reading')[{table}].querySelectorAll('[data-value]')]{_CELLS}")
    return dict(found)


def expected_cells(one: Made, x: int, y: int) -> dict[str, str]:
    top = np.iinfo(one.lower.dtype).max
    found = {}
    for c, channel in enumerate(["red", "green", "blue"] if len(one.lower) == 3 else ["value"]):
        lower, upper, estimate = (float(array[c, y, x]) / top for array in (one.lower, one.upper, one.estimate))
        assert one.target is not None
        is_judged = one.mask is None or one.mask[y, x]
        verdict = "not judged" if not is_judged else "✗ outside" if one.missed[c, y, x] else "✓ inside"
        numbers = {"lower": lower, "estimate": estimate, "upper": upper, "size": upper - lower,
                   "truth": float(one.target[c, y, x]) / top}  # fmt: skip
        found |= {f"{channel}-{name}": f"{value:.4f}" for name, value in numbers.items()}
        found[f"{channel}-verdict"] = verdict
    return found


def sizes(one: Made) -> np.ndarray:
    """Sizes of the judged pixels, means over channels."""
    whole = (one.upper.astype(np.int64) - one.lower).sum(axis=0)
    size = whole / (np.iinfo(one.lower.dtype).max * len(one.lower))
    return size if one.mask is None else size[one.mask]


def names(view: Browser) -> list[str]:
    return list(view.run("[...document.querySelectorAll('.row .name')].map((one) => one.textContent)"))


def choose_option(view: Browser, select: str, value: Any) -> None:
    view.run(f"document.querySelector('#{select}').value = '{value}'")
    view.run(f"document.querySelector('#{select}').dispatchEvent(new Event('change'))")
    view.settle()


def test_header_says_what_is_guaranteed_and_what_is_wrong(opened: Browser, tmp_path: Path) -> None:
    text = opened.text("#guarantee")
    assert "N-Conffusion: With probability at least 90 % over the draw of the 200 calibration images" in text
    assert DRIFT["warning"] in opened.text("#warnings")
    assert "N-Conffusion" in opened.text("#calibration") and "DM_SB" in opened.text("#calibration")
    assert opened.text("#name") == HOSTILE and names(opened) == BY_NAME
    assert opened.run("document.querySelectorAll('b').length") == 0
    opened.shot(tmp_path / "wide.png")


def test_keys_go_through_the_images(opened: Browser) -> None:
    forward = [("j", "grey"), ("ArrowDown", "hole"), ("ArrowRight", "img 2"), ("j", "img 10"), ("j", "img 10")]
    back = [("k", "img 2"), ("ArrowUp", "hole"), ("ArrowLeft", "grey"), ("End", "img 10"), ("Home", HOSTILE)]
    for key, name in forward + back:
        opened.press(key)
        assert opened.text("#name") == name
        assert opened.run("document.querySelector('[aria-selected=true] .name').textContent") == name
    opened.press("j", "j", "j")
    opened.wait("document.querySelector('figcaption .warning')?.textContent.includes('holes are large')")


@pytest.mark.parametrize("name", ["img 2", "grey"])
def test_slider_runs_from_lower_over_estimate_to_upper(opened: Browser, name: str) -> None:
    one = IMAGES[name]
    go_to(opened, name)
    top, (x, y) = np.iinfo(one.lower.dtype).max, (7, 4)

    def shown(values: np.ndarray) -> list[int]:
        return [int(np.floor(255 * float(value) / top + 0.5)) for value in np.resize(values[:, y, x], 3)]

    assert one.target is not None
    for key, array in (("2", one.lower), ("4", one.upper), ("3", one.estimate), ("5", one.target)):
        opened.press(key)
        assert colour(opened, one, x, y) == shown(array)
    opened.press("3", *["["] * 5)
    assert opened.run("document.querySelector('#slide').value") == "-50"
    assert (
        opened.run("document.querySelector('#slide').getAttribute('aria-valuetext')") == "50 % from estimate to lower"
    )
    halfway = (one.estimate.astype(float) + one.lower) / 2
    assert np.abs(np.subtract(colour(opened, one, x, y), shown(halfway))).max() <= 1
    opened.run("document.querySelector('#slide').focus()")
    opened.press("End")
    assert opened.text("#slide-text") == "upper" and colour(opened, one, x, y) == shown(one.upper)


@pytest.mark.parametrize(
    ("name", "x", "y"), [("img 2", 0, 0), ("img 2", 31, 23), ("hole", 10, 8), ("hole", 2, 2), ("grey", 13, 5)]
)
def test_a_click_reads_the_arrays(opened: Browser, name: str, x: int, y: int) -> None:
    go_to(opened, name)
    click_pixel(opened, IMAGES[name], x, y)
    assert opened.text(".where") == f"x {x}, y {y}"
    assert cells(opened) == expected_cells(IMAGES[name], x, y)


def test_keyboard_alone_reads_pixels(opened: Browser) -> None:
    go_to(opened, "img 2")
    opened.press("i")
    assert opened.run("document.activeElement.className") == "view"
    assert opened.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    opened.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowUp")  # the first shows the cursor, in the middle
    assert opened.text(".where") == "x 18, y 11"
    opened.press("ArrowLeft", shift=True)
    assert cells(opened) == expected_cells(IMAGES["img 2"], 8, 11)
    assert opened.text("#name") == "img 2"
    opened.press("Escape", "ArrowDown")
    assert opened.text("#name") == "img 10" and not opened.run("document.querySelector('.reading')")


def test_tab_reaches_every_control_visibly(opened: Browser) -> None:
    reached = []
    for _ in range(60):
        opened.press("Tab")
        if opened.run("document.activeElement === document.body"):
            break
        name = opened.run("(one => one.id || one.className || one.textContent)(document.activeElement)")
        outline = opened.run("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", name
        reached.append(name)
    controls = "show-help sort filter list method beside zoom-in view slide missed wide wide-number highlight"
    assert set(controls.split()) <= set(reached)
    tree = opened.call("Accessibility.getFullAXTree")["nodes"]
    roles = "button slider checkbox combobox spinbutton searchbox listbox application option".split()
    named = [node for node in tree if node.get("role", {}).get("value") in roles and not node.get("ignored")]
    assert len(named) > 20
    assert all(node["name"]["value"].strip() for node in named)


@pytest.mark.parametrize("name", ["img 2", "hole", "grey"])
def test_threshold_counts_what_numpy_counts(opened: Browser, name: str) -> None:
    go_to(opened, name)
    one = IMAGES[name]
    threshold = float(np.round(np.quantile(sizes(one), 0.7), 4))
    opened.run("document.querySelector('#wide-number').select()")
    opened.press(*str(threshold))
    n, all_pixels = int((sizes(one) > threshold).sum()), sizes(one).size
    assert 0 < n < all_pixels
    assert opened.text("#wide-count").startswith(f"{n:,} of {all_pixels:,} pixels (")
    assert opened.run("document.querySelector('#highlight').checked")
    judged = np.ones(one.lower.shape[1:], dtype=bool) if one.mask is None else one.mask
    wide = np.zeros(judged.shape, dtype=bool)
    wide[judged] = sizes(one).reshape(-1) > threshold
    marked = tuple(int(k[0]) for k in np.nonzero(wide))
    free = tuple(int(k[0]) for k in np.nonzero(~wide))
    red, _, blue = colour(opened, one, marked[1], marked[0])
    assert red - blue > 150
    red, _, blue = colour(opened, one, free[1], free[0])
    assert abs(red - blue) < 100


def test_missed_values_are_counted_and_marked(opened: Browser) -> None:
    go_to(opened, "img 2")
    one = IMAGES["img 2"]
    n = int(one.missed.sum())
    assert opened.text("#missed-count") == f"{n:,} of {one.missed.size:,} values ({100 * n / one.missed.size:.1f} %)"
    opened.press("m")
    for n_channels in (0, 1, 2):
        y, x = (int(k[0]) for k in np.nonzero(one.missed.sum(axis=0) == n_channels))
        share = 0.2 + 0.8 * n_channels / 3 if n_channels else 0.0
        wanted = (1 - share) * one.estimate[:, y, x] + share * np.array([255, 0, 160])
        assert np.abs(np.subtract(colour(opened, one, x, y), wanted)).max() <= 1


def test_overlays_have_the_colours_of_their_legend(opened: Browser, page: Path) -> None:
    go_to(opened, "img 2")
    one, end = IMAGES["img 2"], read_index(page)["scale_end"]
    assert one.target is not None
    error = np.abs(one.estimate.astype(float) - one.target).mean(axis=0) / 255
    for key, values in (("s", sizes(one)), ("e", error)):
        opened.press(key)
        for x, y in ((0, 0), (20, 15), (31, 23)):
            level = min(255, int(np.floor(255 * values[y, x] / end + 0.5)))
            assert (
                np.abs(
                    np.subtract(colour(opened, one, x, y), np.rint(255 * np.array(colormaps["viridis"](level)[:3])))
                ).max()
                <= 1
            )
    opened.press("e")
    assert colour(opened, one, 0, 0) == one.estimate[:, 0, 0].tolist()


def test_overlays_leave_what_is_not_judged(opened: Browser) -> None:
    go_to(opened, "hole")
    one = IMAGES["hole"]
    opened.press("s", "t", "m")
    grey = 0.4 * one.estimate[:, 2, 2] + 0.6 * 128
    assert np.abs(np.subtract(colour(opened, one, 2, 2), grey)).max() <= 1
    assert one.mask is not None and one.missed[:, ~one.mask].any()
    assert opened.text("#missed-count").startswith(
        f"{one.missed[:, one.mask].sum():,} of {3 * one.mask.sum():,} values"
    )


def test_images_are_sorted_and_filtered(opened: Browser) -> None:
    risks = {
        name: one.missed[np.broadcast_to(True if one.mask is None else one.mask, one.missed.shape)].mean()
        for name, one in IMAGES.items()
    }
    size = {name: float(sizes(one).mean()) for name, one in IMAGES.items()}
    drift = {name: one.record["drift_p_value"] for name, one in IMAGES.items()}
    for key, values, sign in (("size", size, -1), ("risk", risks, -1), ("drift", drift, 1)):
        choose_option(opened, "sort", key)
        wanted = sorted(values, key=lambda name: sign * values[name])
        assert names(opened) == wanted and opened.text("#name") == wanted[0]
        opened.click_on("#direction")
        assert names(opened) == wanted[::-1]
    assert "⚠ drift p 0.0030" in opened.text("#rows")
    opened.press("/", *"img")
    assert sorted(names(opened)) == ["img 10", "img 2"] and opened.text("#count") == "2 of 5 images"
    opened.press("Escape")
    assert opened.run("document.activeElement === document.body")


def test_two_methods_stand_side_by_side_with_one_cursor(opened: Browser, tmp_path: Path) -> None:
    go_to(opened, "img 2")
    opened.press("c", "2")
    first, second = IMAGES["img 2"], OTHER["img 2"]
    assert colour(opened, first, 9, 7, 0) == first.lower[:, 7, 9].tolist()
    assert colour(opened, second, 9, 7, 1) == second.lower[:, 7, 9].tolist()
    click_pixel(opened, first, 9, 7)
    assert cells(opened, 0) == expected_cells(first, 9, 7) and cells(opened, 1) == expected_cells(second, 9, 7)
    opened.press("s", "m")
    opened.shot(tmp_path / "compare.png")
    labels = "[...document.querySelectorAll('figcaption strong')].map((one) => one.textContent)"
    assert opened.run(labels) == ["N-Conffusion", "DM_SB"]
    opened.press("x")
    assert opened.run(labels) == ["DM_SB", "N-Conffusion"] and cells(opened, 0) == expected_cells(second, 9, 7)
    assert "N-Conffusion: " in opened.text("#wide-count") and "DM_SB: " in opened.text("#wide-count")
    opened.press("c")
    assert opened.run("document.querySelectorAll('.panel:not([hidden])').length") == 1


def test_zoom_shows_pixels_as_squares(opened: Browser, tmp_path: Path) -> None:
    go_to(opened, "img 2")
    opened.press("i", "ArrowRight", "+", "+", "+")
    opened.run("document.querySelector('.view').blur()")
    width = int(opened.run("document.querySelector('.view').width"))
    row = [red for red, *_ in screen(opened, 0, 40, width)]
    levels = IMAGES["img 2"].estimate[0]
    assert set(row) <= set(levels.flatten().tolist())  # no shade between those of the pixels
    assert len(np.flatnonzero(np.diff(row))) < 20
    opened.shot(tmp_path / "zoom.png")
    before = opened.text("#zoom")
    opened.press("0")
    assert opened.text("#zoom") != before


def test_help_lists_the_keys(opened: Browser) -> None:
    opened.press("?")
    assert opened.run("document.querySelector('#help').open") and "next image" in opened.text("#keys")
    opened.press("j")
    assert opened.text("#name") == HOSTILE  # keys rest while it is open
    opened.press("Escape")
    assert not opened.run("document.querySelector('#help').open")


@pytest.mark.parametrize("width", [400, 1000, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_narrow_and_wide_light_and_dark(opened: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    opened.colours(scheme)
    opened.resize(width, 900)
    opened.press("j", "j", "j", "c", "t")
    assert opened.run("document.documentElement.scrollWidth") <= width
    widths = opened.run("[...document.querySelectorAll('.panel:not([hidden]) .view')].map((one) => one.clientWidth)")
    assert len(widths) == 2 and min(widths) > 250
    red, *_ = opened.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red > 200) == (scheme == "light")
    opened.shot(tmp_path / f"{scheme}-{width}.png")
    opened.colours("light")


def test_reduced_images_say_so(shared: Browser, tmp_path: Path) -> None:
    one = made(0, (3, 60, 90))
    root = write_predictions(tmp_path / "in", {"large": one})
    shared.open(write_page(open_predictions([root]), tmp_path / "page.html", max_side=30).path)
    assert "Large images are reduced" in shared.text("#notes")
    shared.press("i", "ArrowRight")
    assert shared.text(".where").startswith("x 46, y 31 (the page holds a reduced image")
    assert cells(shared) == expected_cells(one, 46, 31)


def write_thousand(output: Path) -> Page:
    """A page of 1,000 colour images of 64 x 64 pixels with truth."""

    def images() -> Iterator[ViewedImage]:
        for k in range(1000):
            one = made(k, (3, 64, 64))
            assert one.target is not None
            lower, upper, estimate, target = (
                array / np.float32(255) for array in (one.lower, one.upper, one.estimate, one.target)
            )
            size = float((upper - lower).mean())
            prediction = Prediction(lower, upper, estimate, float(one.missed.mean()), size, (k + 1) / 1000)
            yield ViewedImage(f"scan {k}", (prediction,), estimate, target)

    side = Side("N-Conffusion", "guaranteed", 0.1, 0.1, 1.01, "image", 200, 200, "point_head", 0.5)
    return write_page(Gallery("a thousand", (side,), ((64, 64),) * 1000, 15, images), output)


def test_a_thousand_images(shared: Browser, tmp_path: Path, record_property: Any) -> None:
    page = write_thousand(tmp_path / "thousand.html")
    assert page.n_bytes < 100e6 and page.max_side is None
    shared.errors.clear()
    seconds = shared.open(page.path)
    record_property("first_image_seconds", seconds)
    record_property("page_bytes", page.n_bytes)
    assert shared.run("document.querySelectorAll('.row').length") < 60  # drawn only where it is seen
    shared.press("End")
    label = "document.querySelector('.view').getAttribute('aria-label')"
    shows_another = f"!{label}.startsWith(document.querySelector('#name').textContent)"
    assert not shared.run(f"{shows_another} && document.querySelector('#panels').getAttribute('aria-busy') === 'false'")
    shared.wait("document.querySelector('.view').getAttribute('aria-label').startsWith('scan 999')")
    choose_option(shared, "sort", "drift")
    assert shared.text("#name") == "scan 0"
    shared.press("i", "ArrowLeft")
    assert cells(shared) == expected_cells(made(0, (3, 64, 64)), 32, 32)
    shared.run("document.querySelector('#list').scrollTop = 30000")
    shared.wait("document.querySelector('.row .name')?.textContent === 'scan 464'")
    assert not shared.errors
