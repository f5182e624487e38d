"""Soft-edged shapes and painting on batches of canvases.

Only additions, products, quotients, square roots, comparisons and rounding are used: they are exactly rounded, so
that a face comes out bitwise the same in any batch, on any number of threads.
"""

import torch
from torch import Tensor


def cover(distance: Tensor, softness: Tensor | float) -> Tensor:
    """Coverage in [0, 1] of a shape from its inner `distance`, with an edge `softness` wide (same units)."""
    return (distance / softness).add_(0.5).clamp_(0.0, 1.0)


def bump(offset: Tensor) -> Tensor:
    """Smooth bump: 1 at 0, 0 from |`offset`| = 1 on."""
    inner = (1.0 - offset * offset).clamp_(min=0.0)
    return inner * inner


def ease(value: Tensor) -> Tensor:
    """Smooth step from 0 (`value` <= 0) to 1 (`value` >= 1)."""
    value = value.clamp(0.0, 1.0)
    return value * value * (3.0 - 2.0 * value)


def ellipse(x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """Approximate inner distance to an ellipse about the origin; positive inside."""
    across, down = x / radius_x, y / radius_y
    reach = (across * across).add_(down * down).sqrt_()
    return (1.0 - reach) * (0.5 * (radius_x + radius_y))


def paint(image: Tensor, alpha: Tensor, colour: Tensor) -> None:
    """Lay `colour` over `image` in place.

    Args:
        image: (N, 3, S, S), changed.
        alpha: (N, S, S) coverage in [0, 1].
        colour: (N, 3, 1, 1) or (N, 3, S, S).
    """
    image.add_((colour - image).mul_(alpha[:, None]))


def shade(image: Tensor, gain: Tensor) -> None:
    """Multiply `image` (N, 3, S, S) in place by `gain` (N, S, S)."""
    image.mul_(gain[:, None])


def mix(first: Tensor, second: Tensor, weight: Tensor | float) -> Tensor:
    """`first` where `weight` is 0, `second` where it is 1."""
    return first + (second - first) * weight


def hue_colour(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """RGB colour of hue, saturation and value.

    Args:
        hue: (N, 1, 1); wraps at 1.
        saturation: (N, 1, 1) in [0, 1].
        value: (N, 1, 1) in [0, 1].
    Returns:
        (N, 3, 1, 1) in [0, 1].
    """
    turn = (hue - hue.floor()) * 6.0
    red = ((turn - 3.0).abs() - 1.0).clamp(0.0, 1.0)
    green = (2.0 - (turn - 2.0).abs()).clamp(0.0, 1.0)
    blue = (2.0 - (turn - 4.0).abs()).clamp(0.0, 1.0)
    pure = torch.stack((red, green, blue), dim=1)
    return value[:, None] * (1.0 - saturation[:, None] * (1.0 - pure))


def _taps(cells: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left and right cells (size,) and smooth right-hand weight (size,) to stretch `cells` over `size` pixels."""
    place = (torch.arange(size, dtype=torch.float32) + 0.5) * ((cells - 1) / size)
    left = place.floor().clamp(max=cells - 2)
    right = place - left
    return left.long(), left.long() + 1, 0.5 * (right + ease(right))


def stretch(tile: Tensor, size: int) -> Tensor:
    """Smoothly enlarge noise tiles (N, C, T, T) to (N, C, size, size)."""
    left, right, weight = _taps(tile.shape[-1], size)
    rows = mix(tile[:, :, left], tile[:, :, right], weight[:, None])
    return mix(rows[..., left], rows[..., right], weight)


def look_up(tile: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """Bilinear look-up in tiles (N, C, A, B) at `along` (rows) and `across` (columns) in [-1, 1], mirrored beyond.

    Returns:
        (N, C, S, S) for coordinates of shape (N, S, S).
    """
    grid = torch.stack((across, along), dim=-1)
    return torch.nn.functional.grid_sample(tile, grid, padding_mode="reflection", align_corners=True)
