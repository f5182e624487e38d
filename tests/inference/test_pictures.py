from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps

from conffusion.errors import ShapeError
from conffusion.inference import pictures as overview
from conffusion.inference.pictures import picture, side_by_side, size_heat_map

RNG = np.random.default_rng(1)


def luminance(colours: np.ndarray) -> np.ndarray:
    return colours.astype(float) @ [0.2126, 0.7152, 0.0722]


def test_wider_is_brighter_from_end_to_end_of_the_map() -> None:
    sizes = np.linspace(0, 0.3, 256)[None]
    heat = size_heat_map(sizes, 0.3)
    assert heat.shape == (1, 256, 3) and heat.dtype == np.uint8
    assert (np.diff(luminance(heat[0])) > -0.5).all()
    ends = [colormaps[overview.HEAT_MAP](end, bytes=True)[:3] for end in (0.0, 1.0)]
    np.testing.assert_array_equal(heat[0, [0, -1]], ends)
    np.testing.assert_array_equal(size_heat_map(np.full((1, 1), 7.0), 0.3)[0, 0], ends[1])


def test_channels_are_averaged() -> None:
    size = RNG.random((3, 5, 6)) * 0.2
    np.testing.assert_array_equal(size_heat_map(size, 0.2), size_heat_map(size.mean(axis=0), 0.2))


def test_grey_and_colour_pictures() -> None:
    colour = RNG.integers(0, 256, (7, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(picture(colour.transpose(2, 0, 1) / 255), colour)
    np.testing.assert_array_equal(picture(colour[..., 0][None] / 255), np.repeat(colour[..., :1], 3, axis=2))


def test_panels_stand_in_order_under_labels() -> None:
    panels: dict[str, Any] = {
        name: np.full((200, 180, 3), value, np.uint8) for name, value in (("input", 60), ("lower", 120), ("size", 180))
    }
    shown = side_by_side(panels)
    assert shown.dtype == np.uint8
    top = overview.GAP + overview.LINE_HEIGHT
    for k, value in enumerate((60, 120, 180)):
        left = overview.GAP + k * (180 + overview.GAP)
        assert (shown[top : top + 200, left : left + 180] == value).all()
        assert shown[:top, left : left + 180].min() < 100  # a label
    assert (shown[top:, : overview.GAP] == 255).all()
    assert shown.shape == (top + 200 + overview.GAP, 3 * 186 + 6, 3)


def test_colour_bar_has_the_colours_of_the_heat_map_below_the_last_panel() -> None:
    size = np.full((200, 180), 0.05)
    panels = {"lower": np.zeros((200, 180, 3), np.uint8), "size": size_heat_map(size, 0.1)}
    plain, with_bar = side_by_side(panels), side_by_side(panels, largest=0.1)
    np.testing.assert_array_equal(with_bar[: len(plain) - overview.GAP], plain[: -overview.GAP])
    bar = with_bar[len(plain) + overview.BAR_HEIGHT // 2, -(180 + overview.GAP) : -overview.GAP]
    np.testing.assert_array_equal(bar, size_heat_map(np.linspace(0, 0.1, 180)[None], 0.1)[0])
    assert (with_bar[len(plain) :, : overview.GAP + 180] == 255).all()
    assert with_bar[len(plain) + overview.BAR_HEIGHT :, -186:].min() < 100  # numbers and unit
    other = side_by_side(panels, largest=0.2)
    assert (other != with_bar).any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 16), (64, 48), (2000, 1500), (10, 4000)])
def test_any_size_gives_legible_panels(height: int, width: int) -> None:
    panel = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    shown = side_by_side({"lower": panel, "upper": panel}, largest=1.0)
    assert shown.shape[1] <= 2 * (overview.LARGEST_SIDE + overview.GAP) + overview.GAP
    assert shown.shape[1] > 2 * 100
    if (height, width) == (16, 16):  # enlarged without blur
        np.testing.assert_array_equal(shown[24:184:10, 6:166:10], panel)


def test_wrong_shapes() -> None:
    with pytest.raises(ShapeError, match="upper has shape"):
        side_by_side({"lower": np.zeros((4, 5, 3), np.uint8), "upper": np.zeros((4, 6, 3), np.uint8)})
    with pytest.raises(ShapeError, match="at least one"):
        side_by_side({})
    with pytest.raises(ShapeError, match="largest = 0"):
        size_heat_map(np.zeros((4, 5)), 0)
    with pytest.raises(ShapeError, match=r"\(2, 4, 5\)"):
        picture(np.zeros((2, 4, 5)))


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [
        (20, 40, (80, 160)),
        (40, 20, (320, 160)),
        (1280, 320, (640, 160)),
        (320, 1280, (160, 640)),
        (200, 300, (200, 300)),
    ],
)
def test_panels_keep_their_proportions(height: int, width: int, shown: tuple[int, int]) -> None:
    """Small ones are enlarged by a whole number to a legible width, large ones reduced to the largest side."""
    panel = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = side_by_side({"lower": panel})
    assert found.shape[:2] == (shown[0] + 2 * overview.GAP + overview.LINE_HEIGHT, shown[1] + 2 * overview.GAP)
