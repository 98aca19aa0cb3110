"""Colours for classes whose data set has none."""

from __future__ import annotations

import colorsys

# The golden ratio's fraction: multiples of it are spread evenly over the hues, however many.
_STEP = 0.618034


def default_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Return distinct RGB colours, 0 to 255."""
    colors = []
    for index in range(count):
        r, g, b = colorsys.hsv_to_rgb(index * _STEP % 1, 0.85, 1.0 if index % 2 else 0.75)
        colors.append((round(255 * r), round(255 * g), round(255 * b)))
    return tuple(colors)
